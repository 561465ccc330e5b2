"""The day of a run, in words, for prompts that name it."""

# No `from __future__ import annotations` here, as in every module of the flows.

from datetime import UTC, date, datetime

from prefect_nanobanana._common.runs_above import runs_above
from prefect_nanobanana.models import PromptTemplate

# Not strftime: it speaks the language of the machine.
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


def variables_of(day: date) -> dict[str, str]:
    """What a day is called: `date` as 2026-11-23, `weekday` Monday, `day` 23, `month`, `year`."""
    return {
        "date": day.isoformat(),
        "weekday": _WEEKDAYS[day.weekday()],
        "day": str(day.day),
        "month": _MONTHS[day.month - 1],
        "year": str(day.year),
    }


def filled(text: str, day: date) -> str:
    """The text with the day in its places. Not `str.format`: other braces are the text's own."""
    for name, value in variables_of(day).items():
        text = text.replace("{" + name + "}", value)
    return text


def of_this_day(template: PromptTemplate | None) -> PromptTemplate | None:
    """A template whose texts may name the day of the flow run that this is called in.

    It is the day for which the outermost run was scheduled (UTC): the same in each attempt.
    """
    if template is None:
        return None
    scheduled = next((run.scheduled for run in runs_above() if run.scheduled is not None), None)
    return on_day(template, (scheduled or datetime.now(UTC)).astimezone(UTC).date())


def on_day(template: PromptTemplate | None, day: date) -> PromptTemplate | None:
    """A template whose texts may name the day; its own variables and matrix come first."""
    if template is None:
        return None
    free = {n: v for n, v in variables_of(day).items() if n not in template.matrix}
    return template.model_copy(update={"variables": {**free, **template.variables}})
