"""One prompt on its way through a run, and what is written of it at each step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import uuid4

from prefect_nanobanana.batch._charges import charges_before, models_since
from prefect_nanobanana.batch._conflicts import Claimed
from prefect_nanobanana.batch._planned import Planned
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._run_handle import RunHandle
from prefect_nanobanana.batch._spending import Spending, spending_of, with_charges
from prefect_nanobanana.batch._told import Told
from prefect_nanobanana.client import GenerationHooks
from prefect_nanobanana.errors import NanoBananaError, NotCharged
from prefect_nanobanana.images import Copied
from prefect_nanobanana.models import Charge, Credits, Generation, Submission


class Job(GenerationHooks):
    """One prompt of a run. It writes what the client tells it into the ledger.

    Not a dataclass: Prefect walks through those that it finds in a task's parameters.

    Args:
        planned: What is to be done.
        run: The run that it is part of.
        ticket: Tells its requests from those of others: their attempts begin with it.
    """

    offers_private_references = True

    def __init__(self, planned: Planned, run: RunHandle[Job], ticket: str | None = None) -> None:
        self.planned = planned
        self.ticket = ticket or f"{uuid4().hex[:12]}-"
        self.run = run
        self._record = self._before = planned.record
        self._paid_already = planned.record.attempt if planned.of_this_call else None
        self._error: Exception | None = None
        self._copy_errors: list[Exception] = []
        self._lost_at = 0.0
        self._refused = False
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
        paid = not self._record.safe_to_send or bool(charges_before(self._record))
        return paid and not self._has_sent(self._record)

    @property
    def cost_told(self) -> bool:
        """Whether the API has told what the last request cost."""
        return self._cost_told

    def _has_sent(self, record: Record) -> bool:
        """Whether a record is of a request that was sent for this job, here or by a worker."""
        return self._is_own(record.attempt)

    def _is_own(self, attempt: str | None) -> bool:
        return attempt is not None and attempt.startswith((self.ticket, self._paid_already or "-"))

    @property
    def is_news(self) -> bool:
        """Whether it came to its end in this process, or in one that died before it could say so."""
        said = self.planned.of_this_call and self._record is self.planned.record
        return not self.reused and not (said and self._record.state != "asked")

    @property
    def by_other_run(self) -> bool:
        """Whether another run has asked for it while this one was at work."""
        planned = self.planned
        anew = planned.action == "await_other" or self._record.attempt != planned.record.attempt
        return self.reused and anew

    def spending(self, price: Credits | None) -> Spending:
        """What the last request has cost, whoever sent it, by the price that is known now."""
        spending = spending_of(self._record, price)
        return spending if self.reused else replace(spending, estimated=not self._cost_told)

    def spent_here(self, price: Credits | None) -> Spending:
        """What all requests that were sent for it in this run have cost."""
        last = Spending() if self.reused or self._record.safe_to_send else self.spending(price)
        return with_charges(last, self.own_charges)

    @property
    def own_charges(self) -> list[Charge]:
        """What requests of this run have cost before the last one."""
        here = (c for c in charges_before(self._record) if self._is_own(c.attempt))
        return [*self.planned.own_charges, *here]

    @property
    def refused(self) -> bool:
        """Whether the model that is asked has refused the prompt in this run, at its price."""
        return self._refused

    def fall_back(self) -> bool:
        """Have the next model asked, if there is one that nobody has asked since the plan was made."""
        following = self.planned.falling_back(models_since(self.planned.record, self._record))
        if following is not None:
            self.planned, self._refused = following, False
        return following is not None

    def reference_urls(self, urls: Sequence[str]) -> Sequence[str]:  # noqa: ARG002
        """Where the API can fetch the references from: of private ones, addresses made this moment."""
        return self.planned.reference_urls()

    def sending(self) -> None:
        """Write down that a request leaves.

        Raises:
            NotSent: If the run was stopped, or its ceiling is reached; the request does not leave.
            Claimed: If another run of the batch asks for the same; likewise.
            NanoBananaError: If it could not be written; likewise.
        """
        self.run.admit(self)
        planned, before = self.planned, self._record
        ledger = planned.ledger
        paid = spending_of(before, self.run.price(before.request)).worst
        record = planned.asking(before, paid, self.ticket, self.run.price(planned.request))
        try:
            ledger.claim(record)
        except Claimed:
            raise
        except NanoBananaError as error:
            # Before the next request can leave, which would fail likewise.
            self.run.stop(str(error), error)
            # It may have been written all the same, and would then look like a request that left.
            with suppress(NanoBananaError):
                if ledger.holds(record):
                    ledger.write_once(before)
            raise
        self._before, self._record = before, record

    def not_charged(self, error: NotCharged) -> None:
        """Write down that the request cost nothing: what was known before it still holds."""
        if self._before.safe_to_send:
            self._record = self._record.not_charged(error.message)
        else:
            self._record = self._before
        self.run.refused(self, error)
        self.run.write(self)

    def submitted(self, submission: Submission) -> None:
        """Write down the id by which the generation's end can be asked for."""
        # Async generations are paid at submission, the others with their answer.
        price = self.run.price(self._record.request) if submission.mode == "async" else 0
        told = submission.credits_used
        self._cost_told = told is not None
        self._record = self._record.submitted(submission, told if told is not None else price or 0)
        self.run.write(self)

    def progress(self, percent: int, message: str) -> None:
        """Show how far the generation is."""
        self.run.show(self, percent, message)

    def answered(self, generation: Generation) -> None:
        """Write down what was paid, before the slot is free for the next request.

        So a run that is killed leaves no more prompts `unknown` than it had requests in flight.
        """
        told = generation.credits_used
        self._cost_told = told is not None
        estimate = self._record.credits_used or self.run.price(self._record.request) or 0
        self._record = self._record.answered(generation, told if told is not None else estimate)
        self._refused = generation.status == "warning"
        self.run.paid(self, generation)
        self.run.write(self)

    def told(self, error: Exception | None) -> object:
        """What a task's state holds for the run; here it knows everything but why there is no answer."""
        return error

    def take_over(self, told: Told) -> None:
        """Take over what a worker has done for this job."""
        if told.record.attempt != self._record.attempt:
            self._before = self._record
        self._record, self._cost_told = told.record, told.cost_told
        self.planned.ledger.learn(told.record.key, told.known, told.record)
        for refusal in told.refusals:
            self.run.refused(self, refusal)
        if told.paid is not None:
            self._refused = told.paid.status == "warning"
            self.run.paid(self, told.paid)
        if not told.written:
            self.run.write(self)

    def has_left(self) -> bool:
        """Look whether a worker that tells nothing more has sent a request, and how far that got.

        Raises:
            NanoBananaError: If the record cannot be read; then nothing more is sent.
        """
        try:
            record = self.planned.ledger.read_again(self._record.key)
        except NanoBananaError as error:
            self.run.stop(str(error), error)
            raise
        known = (self._record.attempt, self._record.state)
        if record is None or (record.attempt, record.state) == known or not self._has_sent(record):
            return False
        self._record, self._cost_told = record, not record.credits_estimated
        return True

    def ended_with(self, error: Exception | None) -> None:
        """Take note of why there is no answer; a request that left without one is lost."""
        self._error = error
        record = self._record
        left = record.state == "asked" and self._has_sent(record)
        if left or record.state == "submitted" or record.can_be_polled:
            self._lost_at = time.monotonic()
            self._record = self._record.unanswered(error)
            self.run.write(self)

    def proven_free(self) -> None:
        """Write down that the account's balance shows that the request cost nothing.

        Raises:
            NanoBananaError: If it could not be written, as another run has taken it in hand meanwhile.
        """
        if self._before.safe_to_send:
            why = f"{self._record.message}; the account's balance shows: not charged"
            record = self._record.not_charged(why)
        else:
            record = self._before  # what was known before it still holds
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
        return self.run.write(self)

    def images_lost(self, why: str) -> bool:
        """Write down that its images are gone; whether that could be written."""
        self._record = self._record.lost(why)
        return self.run.write(self)
