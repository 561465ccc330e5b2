"""Prompts in the hands of other processes: the workers of Dask, Ray and of any other task runner.

The flow's process keeps the budget, the plan and the report. What a worker gets is a copy of the job,
which writes the same steps into the same ledger; what it has found out comes back with the task's state.
A worker that dies leaves its record: who runs the task again cannot claim it, and nothing is sent twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from prefect import Task
from prefect.context import FlowRunContext
from prefect.utilities.annotations import quote

from prefect_nanobanana._common.task_runners import runs_elsewhere
from prefect_nanobanana.batch._conflicts import Claimed
from prefect_nanobanana.batch._job import Job
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._run_handle import RunHandle
from prefect_nanobanana.batch._told import NotSent, Told, WorkerLost
from prefect_nanobanana.errors import BucketNotUsable, LedgerError, NanoBananaError, NotCharged
from prefect_nanobanana.models import Credits, Generation, ImageRequest

Prices = Mapping[ImageRequest, Credits | None]
_LOST = "the worker that had it in hand was lost"
_submitting = threading.Lock()


class _Notes(RunHandle[Job]):
    """What happens to a job in a worker, for the run that it is part of."""

    def __init__(self, prices: Prices, admitted_for: float | None) -> None:
        self._prices = prices
        self._until = None if admitted_for is None else time.time() + admitted_for
        self.refusals: list[NotCharged] = []
        self.answer: Generation | None = None
        self.written = True

    def begin(self, job: Job) -> None:
        """Nothing: it is the worker's only one."""

    def begun(self, job: Job) -> None:
        """Likewise."""

    def admit(self, job: Job) -> None:  # noqa: ARG002
        """Nothing, as a rule: it was admitted before it was submitted."""
        if self._until is not None and time.time() > self._until:
            raise NotSent("it waited for a worker for too long: what was set aside for it is gone")

    @property
    def admitted_for(self) -> float | None:
        """Nothing: only the flow's process admits."""
        return None

    def refused(self, job: Job, error: NotCharged) -> None:  # noqa: ARG002
        """Note a refusal."""
        self.refusals.append(error)

    def paid(self, job: Job, generation: Generation) -> None:  # noqa: ARG002
        """Note the answer."""
        self.answer = generation

    def price(self, request: ImageRequest) -> Credits | None:
        """What the request costs, by what was known when it was submitted."""
        return self._prices.get(request)

    def stop(self, why: str, error: NanoBananaError | None = None) -> None:
        """Nothing: what ends the run ends the task, too, which tells of it."""

    def write(self, job: Job) -> bool:
        """Write the job's record; if that fails, the flow's process tries it once more."""
        try:
            job.planned.ledger.write(job.record)
        except (BucketNotUsable, LedgerError):
            self.written = False
        else:
            self.written = True
        return self.written

    def show(self, job: Job, percent: int, message: str) -> None:
        """Nothing: progress is shown by the flow's process."""


class RemoteJob(Job):
    """A job as a worker gets it: it can be pickled, and knows the ledger's record of this prompt alone.

    Args:
        job: The job that it stands for.
        prices: What the last request cost and the next one costs, by all that is known now.
    """

    def __init__(self, job: Job, prices: Prices) -> None:
        whole, key = job.planned.ledger, job.record.key
        ledger = Ledger(whole.store, whole.batch, whole.asked_by, whole.caller)
        ledger.learn(key, whole.known(key))
        self._notes = _Notes(prices, job.run.admitted_for)
        planned = replace(job.planned, record=job.record, ledger=ledger)
        super().__init__(planned, self._notes, job.ticket)

    def told(self, error: Exception | None) -> Told:
        """What the flow's process needs to go on."""
        notes, record = self._notes, self.record
        known = self.planned.ledger.known(record.key)
        refusals = tuple(notes.refusals)
        return Told(record, known, self.cost_told, error, refusals, notes.answer, notes.written)


def run_task(task: Task[..., Any], *arguments: Any) -> Any:
    """Have a task run where the flow's task runner has it run, and wait for its end.

    Returns:
        What its final state holds; nothing if that cannot be had.
    """
    if not runs_elsewhere():
        # Faster than the runner. Walking through parameters in search of futures takes a while, too;
        # the first one, the prompt, gives the task run its name.
        prompt, *others = arguments
        state: Any = task(prompt, *map(quote, others), return_state=True)
    else:
        with _submitting, _light(FlowRunContext.get()):  # the first one may start a cluster
            future = task.submit(*arguments)
        future.wait()
        state = future.state
    return getattr(state.data, "result", state.data)


def work_on(job: Job, work: Callable[[Job], object], *, asks: bool) -> None:
    """Have a task do something for a job, here or in a worker, and note in the job how that ended.

    Args:
        job: The job.
        work: Runs the task, with the job or what stands for it; returns what the task's state holds.
        asks: Whether a request may leave that costs something.
    """
    elsewhere = runs_elsewhere()
    try:
        if elsewhere and asks:
            # The ceiling is kept here: what a worker has in hand counts as sent until it is back.
            job.run.admit(job)
        elif asks:
            job.run.begin(job)
        requests = (job.record.request, job.planned.request)
        prices = {request: job.run.price(request) for request in requests}
        found = work(RemoteJob(job, prices) if elsewhere else job)
    except Exception as error:  # it must not be sent; or Prefect's own, as when its server is away
        found = error
    finally:
        if asks and not elsewhere:
            job.run.begun(job)
    if elsewhere:
        found = _taken_over(job, found)
    job.ended_with(found if isinstance(found, Exception) else None)


def _taken_over(job: Job, found: object) -> Exception | None:
    """Take over what a worker tells of a job, or what one that tells nothing has left in the ledger."""
    error = found if isinstance(found, Exception) else None
    if isinstance(found, Told):
        job.take_over(found)
        error = found.error
        if not isinstance(error, Claimed):
            return error
    elif isinstance(found, NotSent):
        return found
    # A worker may have died, and another one, that ran the task again, found what it had claimed.
    try:
        left = job.has_left()
    except NanoBananaError as unread:
        return unread
    return WorkerLost(_LOST) if left or error is None else error


def _light(context: FlowRunContext | None) -> FlowRunContext:
    """A flow run's context without its parameters: no worker needs all prompts for each of them."""
    assert context is not None
    run = context.flow_run
    run = run and run.model_copy(update={"parameters": {}})
    return context.model_copy(update={"parameters": {}, "flow_run": run})
