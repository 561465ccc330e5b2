"""Several days of a daily batch in one run: all planned first, then made one after the other."""

# No `from __future__ import annotations` here, as in every module of the flows.

from collections.abc import Callable, Sequence
from datetime import date, timedelta

from prefect_nanobanana.errors import InvalidInput, RunFailed
from prefect_nanobanana.flows._call import Call
from prefect_nanobanana.flows._work import Work
from prefect_nanobanana.models import Plan, PlannedPrompt, RunReport
from prefect_nanobanana.report import Publisher

MOST_DAYS = 366


def days_between(from_day: date | None, to_day: date | None, last: date) -> list[date]:
    """The days of a range, both ends included.

    Args:
        from_day: The first one.
        to_day: The last one; `last` if it is not given.
        last: The last one that there may be.

    Raises:
        InvalidInput: If that is no range.
    """
    if from_day is None:
        raise InvalidInput("from_day: is missing: give the first day of the range, or leave out to_day")
    end = to_day or last
    if end < from_day:
        raise InvalidInput(f"to_day: {end} is before from_day, {from_day}: exchange them")
    if end > last:
        raise InvalidInput(f"to_day: {end} is yet to come: the schedule runs it; take {last} at most")
    count = (end - from_day).days + 1
    if count > MOST_DAYS:
        raise InvalidInput(f"from_day: {count} days are more than {MOST_DAYS}: run them in parts")
    return [from_day + timedelta(days=n) for n in range(count)]


def missing_days(
    days: Sequence[date], name: str, call_of: Callable[[date], tuple[Call, str]]
) -> list[date]:
    """Plan all days, say and show what they cost together, and return those on which there is work.

    There is, too, where a run died before it had published what it made.

    Args:
        days: Which.
        name: What the plan of all of them is called.
        call_of: The call for a day, and the name of its batch.

    Raises:
        NanoBananaError: If a day cannot be planned; nothing was spent.
    """
    plans: dict[date, Plan] = {}
    missing: list[date] = []
    for day in days:
        call, batch = call_of(day)
        plan = plans[day] = Work.of_flow_run(call, batch, dry=True).preview()
        done = all(each.step == "reused" for each in plan.prompts)
        if not done or not Publisher(call.store, plan.batch, call.logger).has_published():
            missing.append(day)
    prompts: list[PlannedPrompt] = []
    for day, plan in plans.items():
        for planned in plan.prompts:
            changes = {"position": len(prompts) + 1, "place": f"{day}: {planned.place}"}
            prompts.append(planned.model_copy(update=changes))
    first = plans[days[0]]
    warnings = tuple(f"{day}: {text}" for day, plan in plans.items() for text in plan.warnings)
    whole = first.model_copy(update={"batch": name, "prompts": tuple(prompts), "warnings": warnings})
    publisher = Publisher(call.store, name, call.logger)
    publisher.say_plan(whole)
    publisher.show_plan(whole)
    return missing


def run_days(
    days: Sequence[date], max_credits: int | None, run: Callable[[date, int | None], RunReport]
) -> tuple[list[RunReport], list[RunFailed]]:
    """Run one day after the other; one that fails keeps none of the others.

    Args:
        days: Which.
        max_credits: The most that all of them may spend together; None for no bound.
        run: Runs a day, which may spend so much.

    Returns:
        The report of each day, and why days have failed.
    """
    reports: list[RunReport] = []
    failures: list[RunFailed] = []
    left = max_credits
    for day in days:
        try:
            report = run(day, left)
        except RunFailed as error:
            failures.append(error)
            report = error.report
        reports.append(report)
        if left is not None:
            left = max(0, int(left - report.credits_used - report.credits_at_risk))
    return reports, failures
