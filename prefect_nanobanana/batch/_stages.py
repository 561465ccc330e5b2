"""The stages that a prompt passes: asked for, waited for, copied; each in threads of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial
from types import TracebackType
from typing import Any

from prefect_nanobanana._common import stopping
from prefect_nanobanana._common.daemon_pool import DaemonPool
from prefect_nanobanana._common.stopping import Stop, Stopped
from prefect_nanobanana.batch._conflicts import Claimed
from prefect_nanobanana.batch._control import RunControl
from prefect_nanobanana.batch._copying import Copying
from prefect_nanobanana.batch._job import Job
from prefect_nanobanana.batch._outcomes import Ended, outcome_of_record
from prefect_nanobanana.batch._planned import Action, action_of
from prefect_nanobanana.batch._task_runs import generate_task, wait_task
from prefect_nanobanana.batch._timing import Timing
from prefect_nanobanana.batch._told import NotSent, WorkerLost
from prefect_nanobanana.batch._workers import run_task, work_on
from prefect_nanobanana.errors import (
    BucketNotUsable,
    CreditsUsedUp,
    LedgerError,
    NanoBananaError,
    NeverDelivered,
)
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copier
from prefect_nanobanana.models import Submission

ASYNC_THREADS = 200
"""Async generations of one run in flight at most; the API's own bound is learned from its refusals."""
SETTLING_THREADS = 32
AT_ONCE_SECONDS = 0.5
"""What is under way so long after a stop waits for something that is paid for."""
LEAST_AHEAD, MOST_AHEAD = 2, 64
"""Threads beyond the account's slots, one per slot: so many are ready to send when slots become free.

All of them may do so at the same moment, and it takes Prefect a while to begin a task run.
"""


class Stages:
    """The threads of a run. Use it in a `with` statement.

    Args:
        prompts: How many there are.
        generator: How images are made.
        copier: Copies them.
        control: What the run's jobs share.
        timing: How long is waited.
        grace_seconds: How long what is paid for is waited for when a signal stops the run.
    """

    def __init__(
        self,
        prompts: int,
        generator: NanoBananaGenerator,
        copier: Copier,
        control: RunControl,
        timing: Timing,
        grace_seconds: float,
    ) -> None:
        self._generator = generator
        self._control = control
        self._timing = timing
        self._grace = grace_seconds
        self._copies = Copying(copier, control)
        slots = generator.credentials.max_concurrent_requests
        threads = slots + max(LEAST_AHEAD, min(slots, MOST_AHEAD))
        if generator.mode == "async":
            threads = max(threads, min(ASYNC_THREADS, prompts))
        self._stop = Stop()
        self._asking = DaemonPool(threads, "generate")
        self._settling = DaemonPool(SETTLING_THREADS, "settle")
        self._copying = DaemonPool(Copier.THREADS, "copy")

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._wait(None)
        else:
            # Signals alone come from somebody who kills what does not end.
            self._end_early(None if isinstance(error, Exception) else self._grace)
        for pool in (self._asking, self._settling, self._copying):
            pool.shutdown()

    def _end_early(self, grace_seconds: float | None) -> None:
        """Ask nothing new, and wait for what is paid for, as long as there is time."""
        self._control.stop("the run was stopped")
        self._stop.set()
        self._asking.cancel_waiting()
        self._settling.cancel_waiting()
        try:
            under_way = self._wait(AT_ONCE_SECONDS)  # all else has ended by then
            if under_way:
                self._control.say_stopping(under_way, grace_seconds)
                self._wait(grace_seconds)
        except BaseException as again:
            if isinstance(again, Exception):
                raise
            self._control.say_stopping(0, 0.0)  # a second signal

    def _wait(self, seconds: float | None) -> int:
        """Wait for all that is under way, and what it leads to; returns how much of it is not done."""
        until = None if seconds is None else time.monotonic() + seconds
        while under_way := self._asking.open | self._settling.open | self._copying.open:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            wait(under_way, left)
        return len(under_way)

    def pass_through(
        self, jobs: Iterable[tuple[Job, Action]], note: Callable[[Ended], None]
    ) -> list[Job]:
        """Do with each job what is to be done.

        Args:
            jobs: The jobs, and what is to be done.
            note: Is told of each end.

        Returns:
            The others: they have no answer.
        """
        # What has ended leaves memory: neither its job nor its future is kept.
        under_way = deque(self._start(job, action) for job, action in jobs)
        lost = []
        while under_way:
            found = under_way.popleft().result()
            while isinstance(found, Future):  # a stage hands on to the next one
                found = found.result()
            if isinstance(found, Job):
                lost.append(found)
            else:
                note(found)
        return lost

    def _start(self, job: Job, action: Action) -> Future[Any]:
        match action:
            case "ask":
                return self._submit(self._asking, self._ask, job)
            case "await_end":
                return self._submit(self._settling, self._await_end, job)
            case "await_other":
                return self._submit(self._settling, self._await_other, job)
            case "copy":
                return self._submit(self._copying, self._copies.finish, job)
            case "reuse":
                return self._submit(self._settling, self._end_as_recorded, job)

    def _ask(self, job: Job) -> Any:
        while self._control.is_refused(job.planned.request.model) and job.fall_back():
            pass  # as another prompt has found out
        why = self._control.why_not(job) or self._control.reserve(job)
        if why is not None:
            return self._end_unasked(job, why)
        try:
            ask = partial(run_task, generate_task, job.planned.asked_prompt, self._generator)
            work_on(job, ask, asks=True)
        finally:
            self._control.settle(job)
        if isinstance(job.error, Claimed):
            return self._submit(self._settling, self._await_other, job)
        if isinstance(job.error, WorkerLost) and job.record.can_be_polled:
            return self._submit(self._settling, self._await_end, job)
        return self._next(job)

    def _await_end(self, job: Job) -> Any:
        """Ask for the end of what an earlier run has begun. Costs nothing."""
        record = job.record
        submission = Submission(
            generation_id=str(record.generation_id),
            credits_used=None if record.credits_estimated else record.credits_used or None,
            model=record.request.model,
            mode=self._generator.mode,
        )
        elapsed = record.age_seconds()
        follow = partial(run_task, wait_task, record.prompt, self._generator, submission, elapsed)
        work_on(job, follow, asks=False)
        if job.record.state == "unknown" and job.planned.again:
            return self._start(job, "ask")
        return self._next(job)

    def _await_other(self, job: Job) -> Any:
        """Wait until another run of the batch, which has this prompt in hand, has its answer."""
        planned = job.planned
        while self._control.stopped is None:
            try:
                record = planned.ledger.read_again(job.record.key)
            except NanoBananaError as error:
                return self._control.end(job, "failed", str(error))
            if record is None:
                break
            job.seen(record)
            age = record.age_seconds() or 0.0
            young = age < self._timing.await_other_for
            # Between two tries of the other run its record says "not charged": it will ask again.
            if not young or not (record.state == "asked" or record.safe_to_send):
                break
            stopping.wait(self._timing.look_again_after)
        action = action_of(job.record, planned.ledger.asked_by)
        if action == "ask":
            return self._end_unasked(job, "another run of this batch has it in hand")
        return self._start(job, action)

    def _next(self, job: Job) -> Any:
        record, error = job.record, job.error
        if self._control.refused_by_model(job) and job.fall_back():
            stopped = self._control.stopped
            return self._end_unasked(job, stopped) if stopped else self._start(job, "ask")
        if record.state == "generated":
            return self._submit(self._copying, self._copies.finish, job)
        if isinstance(error, (NeverDelivered, BucketNotUsable, LedgerError)):
            self._control.stop(str(error), error)  # no other prompt would do better
        if record.state == "unknown" and record.generation_id is None and not job.reused:
            return job  # the account's balance may show that it cost nothing
        if error is not None and not record.safe_to_send and record.request != job.planned.request:
            return self._end_unasked(job, str(error))  # what was known before still holds
        if record.open or record.state in ("warning", "failed"):
            return self._end_as_recorded(job)
        if isinstance(error, CreditsUsedUp | NotSent | WorkerLost | Stopped):
            return self._end_unasked(job, str(error))
        return self._control.end(job, "failed", str(error or "it was not asked"))

    def _end_as_recorded(self, job: Job) -> Ended:
        status, message = outcome_of_record(job.record, self._control.price(job.record.request))
        return self._control.end(job, status, message)

    def _end_unasked(self, job: Job, why: str) -> Ended:
        """End a job that was not asked: as it was before, if it was to be asked again."""
        if job.record.safe_to_send:
            return self._control.end(job, "skipped", why)
        if job.planned.listed != job.planned.request:
            told = f"{job.record.message}; {job.planned.request.model} was not asked: {why}"
            return self._control.end(job, outcome_of_record(job.record, None)[0], told)
        return self._end_as_recorded(job)

    def _submit(self, pool: DaemonPool, work: Callable[[Job], Any], job: Job) -> Future[Any]:
        # Prefect finds the flow run that a task belongs to in the context.
        return pool.submit(partial(self._stop.context().run, work, job))
