"""Whom a call asks for: the flow, as people know it, and the account that pays."""

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from prefect_nanobanana._common.runs_above import entered
from prefect_nanobanana.credentials import NanoBananaCredentials
from prefect_nanobanana.models import Caller


def caller_of(credentials: NanoBananaCredentials) -> Caller:
    """Say who asks: the outermost flow in this process, with its deployment if it has one.

    Args:
        credentials: Of the account that pays.
    """
    flow, run_id = _flow()
    return Caller(flow=flow, account=credentials.account, flow_run_id=run_id)


def outermost_flow() -> FlowRunContext | None:
    """The outermost flow in this process."""
    found = (context for context in entered(FlowRunContext) if context.flow and context.flow_run)
    return next(found, None)


def _flow() -> tuple[str | None, str | None]:
    """The flow's name, and the run's id."""
    outermost = outermost_flow()
    if outermost is None or outermost.flow is None or outermost.flow_run is None:
        return None, None
    name, deployment = outermost.flow.name, outermost.flow_run.deployment_id
    run_id = str(outermost.flow_run.id)
    if deployment is None:
        return name, run_id
    try:
        with get_client(sync_client=True) as client:
            return f"{name}/{client.read_deployment(deployment).name}", run_id
    except Exception:  # a name for people, which no run should fail for
        return name, run_id
