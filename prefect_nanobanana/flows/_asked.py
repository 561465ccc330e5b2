"""What a person has answered a suspended run."""

from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.input import keyset_from_base_key, read_flow_run_input


def current_run() -> FlowRun | None:
    """The flow run that this is called in."""
    context = FlowRunContext.get()
    return context.flow_run if context is not None else None


def can_be_suspended(run: FlowRun | None) -> bool:
    """Whether a run can wait for a person: Prefect suspends the own runs of deployments alone."""
    return run is not None and run.deployment_id is not None and run.parent_task_run_id is None


def was_asked(run: FlowRun | None, key: str) -> bool:
    """Whether the run has been suspended under this key already."""
    return run is not None and key in (run.empirical_policy.pause_keys or ())


def answer_to(run: FlowRun | None, key: str) -> dict[str, Any] | None:
    """What a person has answered the run under this key, to the letter; None if nobody has."""
    assert run is not None
    given = read_flow_run_input(keyset_from_base_key(f"suspended-{key}")["response"], run.id)
    return given if isinstance(given, dict) else None
