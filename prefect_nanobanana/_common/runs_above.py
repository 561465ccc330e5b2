"""The runs that a call is made in, and which of them an attempt was retried for.

Prefect runs a flow or task anew below a flow that it retries: with a new id, and for tasks with a
random dynamic key. What stays the same is the outermost run, the names of the runs below it, and what
is asked. Calls that are equal in all of these are told apart by their places: a call takes the place of
an equal one only if some run above both has been retried since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import ContextModel, FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound

C = TypeVar("C", bound=ContextModel)
Attempts = tuple[tuple[str, int], ...]
"""Id and run count of each run above a call and of its own, from the outermost."""


@dataclass(frozen=True)
class RunAbove:
    """A flow run or task run that a call is made in.

    Attributes:
        id: Prefect's id.
        attempt: How many times Prefect has begun it.
        kind: What is run, under a name that stays the same when it is run anew.
        name: The run's name.
        scheduled: When it was expected to start.
        local: Whether it runs in this process.
        may_be_retried: Whether it has retries, or has been retried.
    """

    id: str
    attempt: int
    kind: str
    name: str
    scheduled: datetime | None
    local: bool
    may_be_retried: bool


def runs_above() -> list[RunAbove]:
    """List the runs that the caller is in, from the outermost to its own; empty outside of any."""
    flows = [(c, c.flow_run) for c in entered(FlowRunContext) if c.flow_run is not None]
    tasks = [c.task_run for c in entered(TaskRunContext)]
    known = {run.id for _, run in flows}
    outermost = flows[0][1] if flows else None
    runs = _ancestors(outermost) if outermost is not None else []
    runs += [_task_run(run, local=True) for run in tasks if run.flow_run_id not in known]
    for context, run in flows:
        above = _flow_run(run, local=not context.detached)
        if context.flow is not None and callable(context.flow.flow_run_name):
            above = replace(above, name=context.flow.name)  # it may name each attempt differently
        runs.append(above)
        below = [task for task in tasks if task.flow_run_id == run.id]
        runs += [_task_run(task, local=not context.detached) for task in below]
    return runs


def attempts(runs: Sequence[RunAbove]) -> Attempts:
    """Return which attempt of each run it is."""
    return tuple((run.id, run.attempt) for run in runs)


def takes_the_place(mine: Attempts, earlier: Attempts) -> bool:
    """Whether a call is the same one as an earlier, equal call, made once more.

    It is if a run that both were made in has been retried between them. Else the other one was made
    beside it.
    """
    for (my_id, my_attempt), (id_, attempt) in zip(mine, earlier, strict=False):
        if my_id != id_:
            return False
        if my_attempt != attempt:
            return my_attempt > attempt
    return mine == earlier


def entered(kind: type[C]) -> list[C]:
    """All contexts of a kind that are entered, from the outermost."""
    contexts: list[C] = []
    context = kind.get()
    while isinstance(context, kind):
        contexts.insert(0, context)
        # Prefect's server learns late, or never, what a task run is doing; the context that was there
        # before is kept nowhere but in this token.
        context = context._token.old_value if context._token is not None else None
    return contexts


def _ancestors(run: FlowRun) -> list[RunAbove]:
    """The runs above one whose parent runs in another process, as the server knows them."""
    runs: list[RunAbove] = []
    if run.parent_task_run_id is None:
        return runs
    with get_client(sync_client=True) as client:
        while run.parent_task_run_id is not None:
            placeholder = client.read_task_run(run.parent_task_run_id)
            for parent in placeholder.task_inputs.get("__parents__", []):
                try:
                    task = client.read_task_run(getattr(parent, "id"))  # noqa: B009
                except ObjectNotFound:  # the server has not been told of it yet
                    continue
                runs.insert(0, _task_run(task, local=False))
            if placeholder.flow_run_id is None:
                break
            run = client.read_flow_run(placeholder.flow_run_id)
            runs.insert(0, _flow_run(run, local=False))
    return runs


def _flow_run(run: FlowRun, *, local: bool) -> RunAbove:
    return _run(run, f"flow {run.flow_id}", local)


def _task_run(run: TaskRun, *, local: bool) -> RunAbove:
    # Not the whole key: it ends in a hash of the code, which a person may correct before a retry.
    return _run(run, f"task {run.task_key.rpartition('-')[0] or run.task_key}", local)


def _run(run: FlowRun | TaskRun, kind: str, local: bool) -> RunAbove:
    return RunAbove(
        id=str(run.id),
        attempt=run.run_count,
        kind=kind,
        name=run.name,
        scheduled=run.expected_start_time,
        local=local,
        may_be_retried=bool(run.empirical_policy.retries) or run.run_count > 1,
    )
