"""One run of the main job: asks for what is missing, copies what is there, keeps the ledger.

    prompts -> plan (from the ledger) -> ask, in as many threads as the account has slots
                                      -> or ask for the end of what an earlier run has begun
                                      -> copy, in threads of its own, as soon as an image exists
            -> settle what has no answer, and ask again what was proven not to be charged

Every prompt ends as exactly one `Outcome`. What goes wrong with one does not concern the others,
unless nothing more can be paid for or stored: then the rest is skipped, and said why.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from prefect_nanobanana._common.backoff import Backoff
from prefect_nanobanana._common.naming import slug
from prefect_nanobanana._common.task_names import run_name
from prefect_nanobanana._common.text import counted, in_credits
from prefect_nanobanana.batch._budget import Budget
from prefect_nanobanana.batch._job import HOPELESS, Job, NotSent, make_outcome, outcome_of_record
from prefect_nanobanana.batch._ledger import Claimed
from prefect_nanobanana.batch._settling import nothing_was_charged
from prefect_nanobanana.batch._task_runs import copy_task, generate_task, wait_task
from prefect_nanobanana.errors import (
    ApiError,
    BucketNotUsable,
    CreditsUsedUp,
    LedgerError,
    NanoBananaError,
    NeverDelivered,
)
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import COPY_THREADS, Copier
from prefect_nanobanana.models import Credits, OutcomeStatus
from prefect_nanobanana.progress import Tracker, Watcher
from prefect_nanobanana.report import GalleryItem, emit_image_missing

ASYNC_THREADS = 200
"""Async generations of one run in flight at most; the API's own bound is learned from its refusals."""
SETTLING_THREADS = 32
ROUNDS = 3
"""How often one run asks for the same prompt at most."""
LEAST_AHEAD, MOST_AHEAD = 2, 32
"""Threads beyond the account's slots, one per slot: so many are ready to send when slots become free.

All of them may do so at the same moment, and it takes Prefect a while to begin a task run.
"""
WRITE_AGAIN_FOR_SECONDS = 60.0
"""How long a record of something paid is tried to be written."""
URL_LIFETIME_DAYS = 15
"""After this the API's image URLs are dead (vendor's documentation)."""

CEILING_REACHED = "max_credits is reached"

# What stops a whole run: no other prompt would do better.
_STOPPING = (*HOPELESS, NeverDelivered, BucketNotUsable, LedgerError)


class Run:
    """Brings every job to its end.

    Args:
        jobs: One per prompt, in the order of the list.
        generator: How images are made.
        copier: Copies them.
        budget: The ceiling on what may be spent.
        logger: Gets one line per prompt.
        balance: The account's credits before the run, if known.
        resend: Whether what has no answer is asked again, though it may be paid twice.
        watcher: Is told how far the run is.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        generator: NanoBananaGenerator,
        copier: Copier,
        budget: Budget,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        *,
        balance: Credits | None = None,
        resend: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        self._jobs = jobs
        self._generator = generator
        self._copier = copier
        self._budget = budget
        self._logger = logger
        self._balance = balance
        self._resend = resend
        self._lost: list[Job] = []
        prices = [job.estimate for job in jobs if job.to_ask]
        self._expected = {job.position: job.estimate or 0 for job in jobs if job.to_ask}
        expected = None if None in prices else sum(self._expected.values())
        self._tracker = Tracker(len(jobs), expected=expected, also=watcher)
        self._told: dict[int, GalleryItem] = {}
        self._stopped: str | None = None
        self._lock = threading.Lock()
        self.stop_error: NanoBananaError | None = None
        self._refused: BucketNotUsable | None = None
        for job in jobs:
            job.stopped = lambda: self._stopped
            job.write = self._write
            job.stop = self._stop
            job.show = self._show

    def go(self) -> list[GalleryItem]:
        """Bring every job to its end.

        Returns:
            The outcomes, in the order of the list.
        """
        slots = self._generator.credentials.max_concurrent_requests
        threads = slots + max(LEAST_AHEAD, min(slots, MOST_AHEAD))
        if self._generator.mode == "async":
            threads = max(threads, min(ASYNC_THREADS, len(self._jobs)))
        copying = ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="copy")
        settling = ThreadPoolExecutor(SETTLING_THREADS, thread_name_prefix="settle")
        asking = ThreadPoolExecutor(threads, thread_name_prefix="generate")
        try:
            under_way = []
            for job in self._jobs:
                if job.to_ask:
                    under_way.append(_submit(asking, self._ask, job, copying))
                elif job.record.can_be_polled:
                    under_way.append(_submit(settling, self._settle, job, copying))
                elif job.record.state == "generated":
                    under_way.append(_submit(copying, self._finish_copy, job))
                else:
                    self._end(job, *outcome_of_record(job.record, job.estimate))
            _wait_for(under_way)
            for _ in range(ROUNDS - 1):
                again = self._ask_again()
                _wait_for([_submit(asking, self._ask, job, copying) for job in again])
            for job in self._lost:
                self._end(job, *outcome_of_record(job.record, job.estimate))
        except BaseException:
            # Cancelled: nothing new is asked, but answers that are paid for are waited for and kept.
            self._stop("the run was cancelled")
            raise
        finally:
            asking.shutdown(cancel_futures=True)
            settling.shutdown(cancel_futures=True)
            copying.shutdown()
        return [self._told[job.position] for job in self._jobs]

    def _ask(self, job: Job, copying: ThreadPoolExecutor) -> Future[None] | None:
        if self._stopped is not None:
            self._end_unasked(job, self._stopped)
            return None
        estimate = job.estimate or 0
        if not self._budget.reserve(estimate):
            self._end_unasked(job, CEILING_REACHED)
            return None
        try:
            self._call(job, lambda: generate_task(job.prompt, self._generator, job, return_state=True))
        finally:
            self._settle_budget(job, estimate)
        return self._next(job, copying)

    def _settle_budget(self, job: Job, reserved: Credits) -> None:
        """Tell the budget what this prompt has cost, or may have, beyond what it was told before."""
        worst = 0 if job.reused else job.record.credits_used + job.paid_already + job.worst
        self._budget.settle(reserved, worst - job.settled)
        job.settled = worst

    def _settle(self, job: Job, copying: ThreadPoolExecutor) -> Future[None] | None:
        """Ask for the end of what an earlier run has begun. Costs nothing."""
        self._call(job, lambda: wait_task(self._generator, job, return_state=True))
        return self._next(job, copying)

    def _call(self, job: Job, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:  # Prefect's own, as when its server is away
            job.error = job.error or error
        if job.record.state in ("asked", "submitted") or job.record.can_be_polled:
            job.lost()

    def _next(self, job: Job, copying: ThreadPoolExecutor) -> Future[None] | None:
        if job.record.state == "generated":
            return _submit(copying, self._finish_copy, job)
        provable = not job.reused and job.record.generation_id is None
        if job.record.state == "unknown" and (self._resend or provable):
            with self._lock:
                self._lost.append(job)
        else:
            self._end_asked(job)
        return None

    def _ask_again(self) -> list[Job]:
        """Settle what has no answer; return what may be asked again."""
        lost, self._lost = self._lost, []
        if not lost or self._stopped is not None:
            self._lost = lost
            return []
        if self._resend:
            for job in lost:
                job.again, job.error = True, None
            return lost
        if not nothing_was_charged(self._jobs, lost, self._balance, self._credits, self._logger):
            self._lost = lost
            return []
        again = []
        for job in lost:
            record = job.record.model_copy(update={"state": "not_charged"})
            record.message = f"{record.message}; the account's balance shows: not charged"
            try:
                job.ledger.claim(record)  # unless another run has taken it in hand meanwhile
            except NanoBananaError:
                self._lost.append(job)
                continue
            job.record, job.error = record, None
            self._settle_budget(job, 0)
            again.append(job)
        return again

    def _credits(self) -> Credits | None:
        try:
            with self._generator.credentials.get_client() as client:
                return client.credits()
        except ApiError:
            return None

    def _write(self, job: Job) -> bool:
        """Write the record of something asked, and do not give up soon; say whether it was written."""
        given_up = isinstance(self.stop_error, BucketNotUsable)
        backoff = Backoff(
            0 if given_up else WRITE_AGAIN_FOR_SECONDS, again=(LedgerError, BucketNotUsable)
        )
        while True:
            try:
                job.ledger.write(job.record)
                return True
            except (BucketNotUsable, LedgerError) as error:
                try:
                    delay = backoff.delay_seconds(error)
                except NanoBananaError:
                    self._unrecorded(job, error)
                    return False
            time.sleep(delay)

    def _unrecorded(self, job: Job, error: NanoBananaError) -> None:
        """Say what could not be written, so that a person can still save it."""
        self._stop(str(error), error)
        generation = job.record.generation
        urls = [u for u in generation.image_urls if not u.startswith("data:")] if generation else []
        self._logger.error(
            "What became of %r could not be recorded (%s). State: %s, generation: %s, images: %s",
            run_name(job.prompt.prompt),
            error,
            job.record.state,
            job.record.generation_id,
            " ".join(urls) or "none",
        )

    def _finish_copy(self, job: Job) -> None:
        """Copy what is missing of a generation, and end its job."""
        record = job.record
        text = record.prompt.name or record.prompt.prompt
        for place, url in record.missing.items():
            if self._refused is not None:
                job.copy_errors.append(self._refused)
                break
            name = f"{slug(text)}-{record.key[:8]}-{place}"
            key = job.ledger.bucket.key(job.ledger.batch, "images", name)
            try:
                copy_task(self._copier, place, url, key, job, return_state=True)
            except Exception as error:  # Prefect's own
                job.copy_errors.append(error)
        for problem in job.copy_errors:
            if isinstance(problem, BucketNotUsable):
                self._refused = problem
                self._stop(str(problem), problem)
        urls = len(record.generation.image_urls) if record.generation else 0
        if record.missing:
            why = job.copy_errors[0] if job.copy_errors else "the task that copies it failed"
            lost = f"paid, but {len(record.missing)} of {urls} images could not be copied: {why}; "
            record.message = f"{lost}run the batch again within {URL_LIFETIME_DAYS} days to copy them"
            if not self._write(job):
                record.message = f"{lost}this could not be recorded either: the log has their addresses"
            self._end(job, "failed", record.message)
        else:
            record.state, record.message = "stored", None
            written = self._write(job)
            unwritten = "its record could not be written, so the next run will not know of it"
            self._end(job, "stored", None if written else unwritten)

    def _end_asked(self, job: Job) -> None:
        """End a job that was asked and yields nothing to copy."""
        record, error = job.record, job.error
        if isinstance(error, _STOPPING):
            self._stop(str(error), error)
        if record.state in ("warning", "failed", "unknown", "submitted"):
            self._end(job, *outcome_of_record(record, job.estimate))
        elif isinstance(error, CreditsUsedUp | NotSent | Claimed):
            self._end_unasked(job, str(error))
        else:
            self._end(job, "failed", str(error or "it was not asked"))

    def _end_unasked(self, job: Job, why: str) -> None:
        """End a job that was not asked: as it was before, if it was to be asked again."""
        if job.record.safe_to_send:
            self._end(job, "skipped", why)
        else:
            self._end(job, *outcome_of_record(job.record, job.estimate))

    def _end(self, job: Job, status: OutcomeStatus, message: str | None) -> None:
        record = job.record
        told = make_outcome(
            *(job.position, record, status, message),
            reused=job.reused,
            at_risk=job.worst,
            paid_already=job.paid_already,
        )
        outcome = told.outcome
        self._told[job.position] = told
        level = logging.INFO if status == "stored" else logging.WARNING
        note = f": {message}" if message else f", {counted(len(outcome.images), 'image')}"
        paid = in_credits(record.credits_used) + (" paid earlier" if job.reused else "")
        self._logger.log(level, "%s: %r%s; %s", status, run_name(job.prompt.prompt), note, paid)
        self._tracker.ended(
            job.prompt.prompt,
            status,
            images=len(outcome.images),
            credits=0 if job.reused else record.credits_used,
            asked=record.asked_by == job.ledger.flow_run and not job.reused,
            expected=self._expected.get(job.position, 0),
        )
        if status in ("warning", "failed", "unknown") and (job.copy_errors or not job.reused):
            emit_image_missing(job.ledger.batch, outcome)

    def _show(self, job: Job, percent: int, message: str) -> None:
        text = run_name(job.prompt.name or job.prompt.prompt)
        self._logger.info("%3d %% of %r: %s", percent, text, message)
        self._tracker.moved(job.prompt.prompt, percent)

    def _stop(self, why: str, error: NanoBananaError | None = None) -> None:
        with self._lock:
            if self._stopped is None:
                self._stopped = why
                self.stop_error = error


def _wait_for(under_way: Sequence[Future[Any]]) -> None:
    # An ask ends with a copy under way, whose future it hands on.
    for future in under_way:
        copy = future.result()
        if copy is not None:
            copy.result()


def _submit(pool: ThreadPoolExecutor, work: Callable[..., Any], *args: Any) -> Future[Any]:
    # Prefect finds the flow run that a task belongs to in the context.
    return pool.submit(contextvars.copy_context().run, work, *args)
