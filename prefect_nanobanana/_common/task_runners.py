"""Where Prefect runs the tasks of the current flow."""

from __future__ import annotations

from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner


def runs_elsewhere() -> bool:
    """Whether other processes run the flow's tasks: with any task runner but Prefect's default."""
    context = FlowRunContext.get()
    return context is not None and not isinstance(context.task_runner, ThreadPoolTaskRunner)
