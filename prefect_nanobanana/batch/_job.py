"""One prompt on its way through a run, and what is written of it at each step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from prefect_nanobanana.batch._ledger import Claimed
from prefect_nanobanana.batch._outcomes import Ended, make_outcome
from prefect_nanobanana.batch._plan import Planned
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._spending import Spending, spending_of
from prefect_nanobanana.client import GenerationHooks
from prefect_nanobanana.errors import NanoBananaError, NotCharged
from prefect_nanobanana.images import Copied
from prefect_nanobanana.models import Credits, Generation, OutcomeStatus, Submission


class NotSent(NanoBananaError):
    """The run was stopped, or its ceiling reached, before this request left."""


class RunHandle(Protocol):
    """What a job needs of the run that it is part of."""

    def admit(self, job: Job) -> None:
        """A request is about to leave; raises `NotSent` if it must not."""

    def refused(self, job: Job, error: NotCharged) -> None:
        """A request was not charged, and is not under way any more."""

    def paid(self, job: Job, generation: Generation) -> None:
        """An answer came."""

    def price(self, job: Job) -> Credits | None:
        """What the job's request costs in credits, by all that is known now."""

    def stop(self, why: str, error: NanoBananaError | None = None) -> None:
        """Send nothing more."""

    def write(self, job: Job) -> bool:
        """Write the job's record, patiently; whether that succeeded."""

    def show(self, job: Job, percent: int, message: str) -> None:
        """Show how far the generation is."""


class Job(GenerationHooks):
    """One prompt of a run. It writes what the client tells it into the ledger.

    Not a dataclass: Prefect walks through those that it finds in a task's parameters.

    Args:
        planned: What is to be done.
        run: The run that it is part of.
    """

    def __init__(self, planned: Planned, run: RunHandle) -> None:
        self.planned = planned
        self._run = run
        self._record = planned.record
        self._before = planned.record
        self._sent = {str(planned.record.attempt)} if planned.of_this_call else set()
        self._error: Exception | None = None
        self._copy_errors: list[Exception] = []
        self._lost_at = 0.0
        self._cost_told = not (planned.of_this_call and spending_of(planned.record, None).estimated)

    @property
    def record(self) -> Record:
        """What is known of the prompt."""
        return self._record

    @property
    def error(self) -> Exception | None:
        """Why the last request has no usable answer."""
        return self._error

    @property
    def copy_errors(self) -> tuple[Exception, ...]:
        """Why images were not copied."""
        return tuple(self._copy_errors)

    @property
    def lost_at(self) -> float:
        """When its answer was given up, by the monotonic clock."""
        return self._lost_at

    @property
    def reused(self) -> bool:
        """Whether what is known of it is another run's doing."""
        return not self._record.safe_to_send and self._record.attempt not in self._sent

    @property
    def is_news(self) -> bool:
        """Whether it came to its end in this process, or in one that died before it could say so."""
        said = self.planned.of_this_call and self._record is self.planned.record
        return not self.reused and not (said and self._record.state != "asked")

    @property
    def _by_other_run(self) -> bool:
        """Whether another run has asked for it while this one was at work."""
        planned = self.planned
        anew = planned.action == "await_other" or self._record.attempt != planned.record.attempt
        return self.reused and anew

    def spending(self, price: Credits | None) -> Spending:
        """What the last request has cost, whoever sent it, by the price that is known now."""
        spending = spending_of(self._record, price)
        return spending if self.reused else replace(spending, estimated=not self._cost_told)

    # What the client tells.

    def sending(self) -> None:
        """Write down that a request leaves.

        Raises:
            NotSent: If the run was stopped, or its ceiling is reached; the request does not leave.
            Claimed: If another run of the batch asks for the same; likewise.
            NanoBananaError: If it could not be written; likewise.
        """
        self._run.admit(self)
        ledger, before = self.planned.ledger, self._record
        paid = spending_of(before, self._run.price(self)).worst
        record = before.asking(self.planned.prompt, self.planned.request, ledger.asked_by, paid)
        try:
            ledger.claim(record)
        except Claimed:
            raise
        except NanoBananaError as error:
            # Before the next request can leave, which would fail likewise.
            self._run.stop(str(error), error)
            # It may have been written all the same, and would then look like a request that left.
            with suppress(NanoBananaError):
                if ledger.holds(record):
                    ledger.write_once(before)
            raise
        self._before, self._record = before, record
        self._sent.add(str(record.attempt))

    def not_charged(self, error: NotCharged) -> None:
        """Write down that the request cost nothing: what was known before it still holds."""
        if self._before.safe_to_send:
            self._record = self._record.not_charged(error.message)
        else:
            self._record = self._before
        self._run.refused(self, error)
        self._run.write(self)

    def submitted(self, submission: Submission) -> None:
        """Write down the id by which the generation's end can be asked for."""
        # Async generations are paid at submission, the others with their answer.
        price = self._run.price(self) if submission.mode == "async" else 0
        told = submission.credits_used
        self._cost_told = told is not None
        self._record = self._record.submitted(submission, told if told is not None else price or 0)
        self._run.write(self)

    def progress(self, percent: int, message: str) -> None:
        """Show how far the generation is."""
        self._run.show(self, percent, message)

    def answered(self, generation: Generation) -> None:
        """Write down what was paid, before the slot is free for the next request.

        So a run that is killed leaves no more prompts `unknown` than it had requests in flight.
        """
        told = generation.credits_used
        self._cost_told = told is not None
        estimate = self._record.credits_used or self._run.price(self) or 0
        self._record = self._record.answered(generation, told if told is not None else estimate)
        self._run.paid(self, generation)
        self._run.write(self)

    # What the run tells.

    def ended_with(self, error: Exception | None) -> None:
        """Take note of why there is no answer; a request that left without one is lost."""
        self._error = error
        record = self._record
        left = record.state == "asked" and record.attempt in self._sent
        if left or record.state == "submitted" or record.can_be_polled:
            self._lost_at = time.monotonic()
            self._record = self._record.unanswered(error)
            self._run.write(self)

    def proven_free(self) -> None:
        """Write down that the account's balance shows that the request cost nothing.

        Raises:
            NanoBananaError: If it could not be written, as another run has taken it in hand meanwhile.
        """
        why = f"{self._record.message}; the account's balance shows: not charged"
        record = self._record.not_charged(why)
        self.planned.ledger.claim(record)
        self._record, self._error = record, None

    def seen(self, record: Record) -> None:
        """Take over what another run has written of the prompt."""
        self._record, self._error = record, None

    def copied(self, place: int, copied: Copied) -> None:
        """Take note of an image in S3."""
        self._record = self._record.copied(place, copied.image, copied.thumbnail)

    def not_copied(self, error: Exception) -> None:
        """Take note of why an image was not copied."""
        self._copy_errors.append(error)

    def copies_ended(self, why: str | None) -> bool:
        """Write down that all images are in S3, or why not; whether that could be written."""
        self._record = self._record.stored() if why is None else self._record.not_copied(why)
        return self._run.write(self)

    def images_lost(self, why: str) -> bool:
        """Write down that its images are gone; whether that could be written."""
        self._record = self._record.lost(why)
        return self._run.write(self)

    def metadata(self) -> Mapping[str, str]:
        """What the objects in S3 say of themselves."""
        record, generation = self._record, self._record.generation
        return {
            "model": generation.model if generation else record.request.model,
            "generation-id": (generation and generation.generation_id) or "",
            "credits": str(record.credits_used),
            "prompt": record.request.prompt,
        }

    def end(
        self,
        status: OutcomeStatus,
        message: str | None,
        price: Credits | None,
        *,
        price_confirmed: bool = False,
    ) -> Ended:
        """The end of the prompt in this run."""
        spending = self.spending(price)
        if status == "unknown" and not price_confirmed and not self._record.credits_used:
            spending = replace(spending, estimated=True)  # the catalogue's price, which may be another
        item = make_outcome(
            self.planned.position,
            self._record,
            status,
            message,
            reused=self.reused,
            by_other_run=self._by_other_run,
            spending=spending,
        )
        return Ended(self.planned, self._record, item)
