"""The final state of a run: its colour, and its story in one line."""

from typing import Any

from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from prefect_nanobanana.errors import RunFailed
from prefect_nanobanana.models import Plan, RunReport
from prefect_nanobanana.report import summary


def has_retries() -> bool:
    """Whether Prefect retries this run. It retries what is raised, not a state that is returned."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return run is not None and bool(run.empirical_policy.retries)


def planned_state(result: RunReport | Plan, plan: Plan) -> Any:
    """The state of a run that only plans: green, with the price as its message."""
    return Completed(message=f"nothing spent: {summary(plan)}", data=result)


def final_state(report: RunReport, fail_on: str) -> Any:
    """The state that a run ends in.

    Args:
        report: What it did.
        fail_on: What turns it red: `error`, also a `warning`, or `never` anything.

    Raises:
        RunFailed: If it is red, and Prefect is to retry it.
    """
    message = summary(report)
    wrong = report.failed + report.unknown
    wrong += sum(o.status == "skipped" and not o.held_back for o in report.outcomes)
    if fail_on == "warning":
        wrong += report.warnings
    if fail_on != "never" and wrong:
        first = next(
            (o.message for o in report.outcomes if o.status in ("failed", "unknown", "skipped")), None
        )
        if first:
            message += f"; first: {first}"
        if has_retries():
            raise RunFailed(message, report)
        return Failed(message=message, data=RunFailed(message, report))
    return Completed(message=message, data=report)
