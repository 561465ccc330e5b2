"""One run of the main job: asks for what is missing, copies what is there, keeps the ledger.

    prompts -> plan (from the ledger) -> ask, in as many threads as the account has slots
                                      -> copy, in threads of its own, as soon as an image exists

Every prompt ends as exactly one `Outcome`. What goes wrong with one does not concern the others,
unless nothing more can be paid for or stored: then the rest is skipped, and said why.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.states import Completed, Failed

from prefect_nanobanana._budget import Budget
from prefect_nanobanana._pace import Pace
from prefect_nanobanana.errors import (
    AccessNotEnabled,
    AuthenticationFailed,
    BucketNotUsable,
    CreditsUsedUp,
    LedgerError,
    NanoBananaError,
    NeverDelivered,
    NotCharged,
    StorageError,
)
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.ledger import Ledger, Record
from prefect_nanobanana.models import Credits, Generation, ImagePrompt, Outcome, OutcomeStatus
from prefect_nanobanana.progress import Tracker
from prefect_nanobanana.report import Told
from prefect_nanobanana.storage import COPY_THREADS, Copied, Copier, slug
from prefect_nanobanana.tasks import named_by_prompt, run_name

LOOKAHEAD = 2
"""Threads beyond the account's slots, so that one is ready to send when a slot becomes free."""
WRITE_AGAIN_FOR_SECONDS = 60.0
"""How long a record of something paid is tried to be written."""
URL_LIFETIME_DAYS = 15
"""After this the API's image URLs are dead (vendor's documentation)."""

# What stops a whole run: no other prompt would do better.
_STOPPING = (
    CreditsUsedUp,
    AuthenticationFailed,
    AccessNotEnabled,
    NeverDelivered,
    BucketNotUsable,
    LedgerError,
)


class NotSent(NanoBananaError):
    """The run was stopped before this request left."""


class Job:
    """One prompt of a run. It is the client's `Witness`, and writes what it sees into the ledger.

    Not a dataclass: Prefect walks through those that it finds in a task's parameters.

    Args:
        position: The prompt's place in the list, from 1.
        record: What the ledger knows of it.
        estimate: What it will cost in credits; None if the API does not say.
        ledger: Where to write.
    """

    def __init__(self, position: int, record: Record, estimate: Credits | None, ledger: Ledger) -> None:
        self.position = position
        self.record = record
        self.estimate = estimate
        self.ledger = ledger
        self.reused = not record.may_be_asked
        self.generation: Generation | None = None
        self.error: Exception | None = None
        self.copy_errors: list[Exception] = []
        self.stopped: Callable[[], str | None] = lambda: None
        self.write_paid: Callable[[Job], None] = lambda _: None

    @property
    def prompt(self) -> ImagePrompt:
        """What was asked for."""
        return self.record.prompt

    def sending(self) -> None:
        """Write down that a request leaves; if that fails, or the run was stopped, it does not."""
        why = self.stopped()
        if why is not None:
            raise NotSent(why)
        self.record.state = "asked"
        self.record.asked_at = datetime.now(timezone.utc)
        self.record.asked_by = self.ledger.flow_run
        self.record.message = None
        try:
            self.ledger.write(self.record)
        except NanoBananaError:
            self.record.state = "planned"
            raise

    def not_charged(self, error: NotCharged) -> None:
        """Write down that the request cost nothing."""
        self.record.state = "not_charged"
        self.record.message = error.message
        self.ledger.write(self.record)

    def answered(self, generation: Generation) -> None:
        """Write down what was paid, before the slot is free for the next request.

        So a run that is killed leaves no more prompts `unknown` than it had requests in flight.
        """
        record = self.record
        self.generation = record.generation = generation
        record.message = generation.message
        record.state = "generated" if generation.status == "completed" else generation.status
        told = generation.credits_used
        record.credits_used = told if told is not None else self.estimate or 0
        self.write_paid(self)


@task(
    name="generate_image",
    task_run_name=named_by_prompt,
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def _generate(prompt: ImagePrompt, generator: NanoBananaGenerator, job: Job) -> Any:
    # What comes of it is kept in the job, as the state that is returned is for people.
    try:
        generation = generator.generate(prompt, witness=job)
    except NanoBananaError as error:
        job.error = error
        return Failed(message=str(error))
    if generation.status == "warning":
        return Completed(name="Warning", message=generation.message)
    if generation.status == "failed":
        return Failed(message=generation.message)
    return Completed(message=f"{len(generation.image_urls)} images")


def _named_by_job() -> str:
    prompt: ImagePrompt = task_run.parameters["job"].prompt
    return run_name(prompt.name or prompt.prompt)


@task(
    name="copy_image_to_s3",
    task_run_name=_named_by_job,
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def _copy(copier: Copier, place: int, url: str, key: str, job: Job) -> Any:
    try:
        copied: Copied = copier.copy(url, key, _metadata(job.record))
    except StorageError as error:
        job.copy_errors.append(error)
        return Failed(message=str(error))
    job.record.images[place] = copied.image
    job.record.thumbnails[place] = copied.thumbnail
    return Completed(message=copied.image.uri)


class Run:
    """Brings every job to its end.

    Args:
        jobs: One per prompt, in the order of the list.
        generator: How images are made.
        copier: Copies them.
        ledger: Keeps the records.
        budget: The ceiling on what may be spent.
        logger: Gets one line per prompt.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        generator: NanoBananaGenerator,
        copier: Copier,
        ledger: Ledger,
        budget: Budget,
        logger: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._jobs = jobs
        self._generator = generator
        self._copier = copier
        self._ledger = ledger
        self._budget = budget
        self._logger = logger
        self._tracker = Tracker(len(jobs))
        self._told: dict[int, Told] = {}
        self._stopped: str | None = None
        self._stop_lock = threading.Lock()
        self.stop_error: NanoBananaError | None = None
        for job in jobs:
            job.stopped = lambda: self._stopped
            job.write_paid = self._write

    def go(self) -> list[Told]:
        """Bring every job to its end.

        Returns:
            The outcomes, in the order of the list.
        """
        slots = self._generator.credentials.max_concurrent_requests
        copying = ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="copy")
        asking = ThreadPoolExecutor(slots + LOOKAHEAD, thread_name_prefix="generate")
        try:
            asked = []
            for job in self._jobs:
                if job.record.may_be_asked:
                    asked.append(_submit(asking, self._ask, job, copying))
                elif job.record.state == "generated":
                    asked.append(_submit(copying, self._finish_copy, job))
                else:
                    self._end_as_recorded(job)
            # An ask ends with a copy under way, whose future it hands on.
            for future in asked:
                copy = future.result()
                if copy is not None:
                    copy.result()
        except BaseException:
            # Cancelled: nothing new is asked, but answers that are paid for are waited for and kept.
            self._stop("the run was cancelled")
            raise
        finally:
            asking.shutdown(cancel_futures=True)
            copying.shutdown()
        return [self._told[job.position] for job in self._jobs]

    def _ask(self, job: Job, copying: ThreadPoolExecutor) -> Future[None] | None:
        if self._stopped is not None:
            self._end(job, "skipped", self._stopped)
            return None
        estimate = job.estimate or 0
        if not self._budget.reserve(estimate):
            self._end(job, "skipped", "max_credits is reached")
            return None
        try:
            self._call(job)
        finally:
            spent = estimate if job.record.state == "unknown" else job.record.credits_used
            self._budget.settle(estimate, spent)
        if job.record.state == "generated":
            return _submit(copying, self._finish_copy, job)
        self._end_asked(job)
        return None

    def _call(self, job: Job) -> None:
        try:
            _generate(job.prompt, self._generator, job, return_state=True)
        except Exception as error:  # Prefect's own, as when its server is away
            job.error = job.error or error
        if job.record.state == "asked":
            # It left, and nothing says that it was not charged.
            job.record.state = "unknown"
            job.record.message = str(job.error or "no answer was recorded")
            self._write(job)

    def _write(self, job: Job) -> None:
        """Write the record of something paid, and do not give up soon."""
        pace = Pace(WRITE_AGAIN_FOR_SECONDS, again=(LedgerError,))
        while True:
            try:
                self._ledger.write(job.record)
                return
            except (BucketNotUsable, LedgerError) as error:
                try:
                    delay = pace.delay_seconds(error)
                except NanoBananaError:
                    self._unrecorded(job, error)
                    return
            threading.Event().wait(delay)

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
            generation.generation_id if generation else None,
            " ".join(urls) or "none",
        )

    def _finish_copy(self, job: Job) -> None:
        """Copy what is missing of a generation, and end its job."""
        record = job.record
        text = record.prompt.name or record.prompt.prompt
        for place, url in record.missing.items():
            if isinstance(self.stop_error, BucketNotUsable):
                job.copy_errors.append(self.stop_error)
                break
            name = f"{slug(text)}-{record.key[:8]}-{place}"
            key = self._ledger.bucket.key(self._ledger.batch, "images", name)
            try:
                _copy(self._copier, place, url, key, job, return_state=True)
            except Exception as error:
                job.copy_errors.append(error)
        for problem in job.copy_errors:
            if isinstance(problem, BucketNotUsable):
                self._stop(str(problem), problem)
        urls = len(record.generation.image_urls) if record.generation else 0
        if record.missing:
            record.message = (
                f"paid, but {len(record.missing)} of {urls} images could not be copied: "
                f"{job.copy_errors[0]}; run the batch again within {URL_LIFETIME_DAYS} days to copy them"
            )
            self._write(job)
            self._end(job, "failed", record.message)
        else:
            record.state, record.message = "stored", None
            self._write(job)
            self._end(job, "stored", None)

    def _end_asked(self, job: Job) -> None:
        """End a job that was asked and yields nothing to copy."""
        record, error = job.record, job.error
        if isinstance(error, _STOPPING):
            self._stop(str(error), error)
        if record.state in ("warning", "failed", "unknown"):
            status: OutcomeStatus = record.state
            message = record.message
            if status == "unknown":
                message = f"{message}; {_maybe_paid(job)}"
            self._end(job, status, message)
        elif isinstance(error, CreditsUsedUp | NotSent):
            self._end(job, "skipped", str(error))
        else:
            self._end(job, "failed", str(error or "it was not asked"))

    def _end_as_recorded(self, job: Job) -> None:
        """End a job that an earlier run had brought to its end, or had died in."""
        record, message = job.record, job.record.message
        status: OutcomeStatus = "unknown"
        if record.state in ("stored", "warning", "failed"):
            status = record.state
        elif record.state == "asked":
            when = f"{record.asked_at:%Y-%m-%d %H:%M} UTC" if record.asked_at else "some time"
            message = f"a run that asked at {when} died before the answer came; {_maybe_paid(job)}"
        else:
            message = f"{message}; {_maybe_paid(job)}"
        self._end(job, status, message)

    def _end(self, job: Job, status: OutcomeStatus, message: str | None) -> None:
        record = job.record
        generation = record.generation if status != "skipped" else None
        outcome = Outcome(
            position=job.position,
            prompt=job.prompt,
            status=status,
            generation=generation and _without_data(generation),
            images=tuple(record.images[n] for n in sorted(record.images)),
            credits_used=record.credits_used,
            reused=job.reused and record.credits_used > 0,
            message=message,
        )
        thumbnails = tuple(record.thumbnails.get(n, "") for n in sorted(record.images))
        self._told[job.position] = Told(outcome, thumbnails)
        level = logging.INFO if status == "stored" else logging.WARNING
        note = f": {message}" if message else f", {len(outcome.images)} images"
        paid = f"{record.credits_used} credits" + (" paid earlier" if job.reused else "")
        self._logger.log(level, "%s: %r%s; %s", status, run_name(job.prompt.prompt), note, paid)
        self._tracker.ended(
            job.prompt.prompt,
            status,
            images=len(outcome.images),
            credits=0 if job.reused else record.credits_used,
            asked=record.asked_by == self._ledger.flow_run and not job.reused,
        )

    def _stop(self, why: str, error: NanoBananaError | None = None) -> None:
        with self._stop_lock:
            if self._stopped is None:
                self._stopped = why
                self.stop_error = error


def _submit(pool: ThreadPoolExecutor, work: Callable[..., Any], *args: Any) -> Future[Any]:
    # Prefect finds the flow run that a task belongs to in the context.
    return pool.submit(contextvars.copy_context().run, work, *args)


def _maybe_paid(job: Job) -> str:
    cost = "an unknown number of" if job.estimate is None else job.estimate
    return f"maybe paid ({cost} credits), and not asked again"


def _metadata(record: Record) -> Mapping[str, str]:
    generation = record.generation
    return {
        "model": generation.model if generation else record.request.model,
        "generation-id": (generation and generation.generation_id) or "",
        "credits": str(record.credits_used),
        "prompt": record.request.prompt,
    }


def _without_data(generation: Generation) -> Generation:
    """The generation without pictures in its URLs, which would swell reports and manifests."""
    urls = tuple(
        url.partition(",")[0] + ",..." if url.startswith("data:") else url
        for url in generation.image_urls
    )
    return generation.model_copy(update={"image_urls": urls})
