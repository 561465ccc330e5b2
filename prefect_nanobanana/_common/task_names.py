"""Names of task runs."""

from __future__ import annotations

from prefect.runtime import task_run

from prefect_nanobanana._common.text import printable


def run_name(text: str) -> str:
    """A task run's name for a prompt: one short line, which a log may show."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= 60 else line[:57].rstrip() + "..."


def named_by_prompt() -> str:
    """Name a task run after its `prompt` parameter."""
    prompt = task_run.parameters["prompt"]
    name = getattr(prompt, "name", None) or getattr(prompt, "prompt", prompt)
    return run_name(str(name))
