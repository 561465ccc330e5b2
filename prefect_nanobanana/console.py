"""A run in a terminal: live progress, and a table of results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from prefect_nanobanana._common.task_names import run_name
from prefect_nanobanana._common.text import number, visible
from prefect_nanobanana.models import OutcomeStatus, Plan, PlannedPrompt, RunReport
from prefect_nanobanana.progress import Progress, watch_progress
from prefect_nanobanana.report import summary

_COLORS: dict[OutcomeStatus, str] = {
    "stored": "green",
    "warning": "yellow",
    "failed": "red",
    "unknown": "magenta",
    "skipped": "dim",
}


@contextmanager
def live_progress(console: Console | None = None) -> Iterator[None]:
    """Show the runs started inside the `with` block: done, warnings, failed, credits, time left.

    In a terminal it is a line that moves; elsewhere, as in a log file, one line per prompt.

    Args:
        console: Where to show it; by default the terminal.
    """
    out = console or Console()
    if not out.is_terminal:
        with watch_progress(lambda p: out.print(_line(p)) if p.status is not None else None):
            yield
        return
    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=out,
    ) as bars:
        bar = bars.add_task("starting", total=None, numbers="")

        def show(progress: Progress) -> None:
            bars.update(
                bar,
                description=_description(progress),
                total=progress.prompts,
                completed=progress.done,
                numbers=_numbers(progress),
            )
            if progress.prompt is not None and progress.status is not None:
                color = _COLORS[progress.status]
                line = Text.assemble((f"{progress.status:8}", color), run_name(progress.prompt))
                bars.console.print(line)

        with watch_progress(show):
            yield


def print_report(report: RunReport, console: Console | None = None) -> None:
    """Print a table of results, the credits, and where manifest and gallery are.

    Args:
        report: The report.
        console: Where to; by default the terminal.
    """
    out = console or Console()
    table = _prompts_table(report.batch)
    table.add_column("status", no_wrap=True)
    table.add_column("images", justify="right")
    table.add_column("credits", justify="right")
    for outcome in report.outcomes:
        table.add_row(
            str(outcome.position),
            Text(run_name(outcome.prompt.prompt)),
            Text(outcome.status, _COLORS[outcome.status]),
            str(len(outcome.images)),
            number(outcome.credits_used)
            + (" (estimate)" if outcome.credits_estimated else "")
            + (" earlier" if outcome.reused else ""),
        )
    out.print(table)
    for outcome in report.outcomes:
        if outcome.message:
            out.print(Text(f"{outcome.position}: {visible(outcome.message)}", _COLORS[outcome.status]))
    out.print(Text(summary(report), "bold"))
    addresses = f"manifest: {report.manifest_uri}\ngallery:  {report.gallery_uri}"
    out.print(Text(visible(addresses)), soft_wrap=True)


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print what a run would do with each prompt, and what that would cost.

    Args:
        plan: The plan.
        console: Where to; by default the terminal.
    """
    out = console or Console()
    table = _prompts_table(plan.batch)
    table.add_column("", no_wrap=True)
    table.add_column("model", no_wrap=True)
    table.add_column("images", justify="right")
    table.add_column("credits", justify="right")
    for planned in plan.prompts:
        table.add_row(
            str(planned.position),
            Text(run_name(planned.prompt.prompt)),
            Text(planned.step, "dim" if planned.step == "reused" else ""),
            Text(visible(planned.model)),
            str(planned.quantity) if planned.asked else "",
            _price(planned),
        )
    out.print(table)
    for warning in plan.warnings:
        out.print(Text(visible(warning), "yellow"))
    out.print(Text(summary(plan), "bold"))


def _prompts_table(batch: str) -> Table:
    """A table of a batch's prompts: place and text; what is said of them comes after."""
    table = Table(title=Text(visible(batch)), title_justify="left", expand=False)
    table.add_column("", justify="right")
    table.add_column("prompt", overflow="ellipsis", no_wrap=True, max_width=40)
    return table


def _description(progress: Progress) -> str:
    if progress.done == progress.prompts:
        return "done"
    return "generating" if progress.percent is None else f"generating ({progress.percent} %)"


def _numbers(progress: Progress) -> str:
    counts = progress.counts
    parts = [f"{counts.get('warning', 0)} warnings", f"{counts.get('failed', 0)} failed"]
    parts += [f"{counts[s]} {s}" for s in ("unknown", "skipped") if s in counts]
    parts.append(f"{number(progress.credits_used)} credits")
    if progress.seconds_left is not None and progress.done < progress.prompts:
        parts.append(f"{progress.seconds_left:.0f} s left")
    return ", ".join(parts)


def _line(progress: Progress) -> Text:
    return Text(
        f"{progress.done}/{progress.prompts} {progress.status}: {run_name(progress.prompt or '')} "
        f"({_numbers(progress)})"
    )


def _price(planned: PlannedPrompt) -> str:
    """What a prompt costs, and at worst, if models refuse it."""
    prices = [planned.price if planned.asked else 0]
    if planned.fallbacks:
        prices.append(planned.worst_price)
    told = " to ".join("unknown" if price is None else number(price) for price in prices)
    return told if planned.asked or planned.fallbacks else ""
