"""Names of task runs."""

from __future__ import annotations

from prefect.runtime import task_run

from prefect_nanobanana._common.text import shortened, visible

RUN_NAME_CHARACTERS = 60


def run_name(text: str) -> str:
    """A task run's name for a prompt: one short line."""
    return shortened(visible(" ".join(text.split())), RUN_NAME_CHARACTERS)


def named_by_prompt() -> str:
    """Name a task run after its `prompt` parameter."""
    prompt = task_run.parameters["prompt"]
    name = getattr(prompt, "name", None) or getattr(prompt, "prompt", prompt)
    return run_name(str(name))
