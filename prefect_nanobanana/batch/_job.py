"""One prompt on its way through a run, and what is written of it at each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from prefect_nanobanana.batch._ledger import Claimed, Ledger, Record
from prefect_nanobanana.client import GenerationHooks
from prefect_nanobanana.errors import (
    AccessNotEnabled,
    ApiError,
    AuthenticationFailed,
    CreditsUsedUp,
    NanoBananaError,
    NotCharged,
)
from prefect_nanobanana.models import (
    Credits,
    Generation,
    ImagePrompt,
    ImageRequest,
    Outcome,
    OutcomeStatus,
    Submission,
)
from prefect_nanobanana.report import GalleryItem

HOPELESS = (CreditsUsedUp, AuthenticationFailed, AccessNotEnabled)
"""Refusals that no other prompt of the run would escape."""


class NotSent(NanoBananaError):
    """The run was stopped before this request left."""


@dataclass(frozen=True)
class Again:
    """What a person wants to have asked again, though it costs, or may cost, a second time.

    Attributes:
        warnings: What the safety check refused.
        failed: What was paid and failed, or whose images were lost.
        unknown: What has no answer; it may have been paid.
        in_flight_seconds: A request without an answer that is younger may still get one.
        flow_run: What this flow run has asked already is not asked again when Prefect retries it.
    """

    warnings: bool = False
    failed: bool = False
    unknown: bool = False
    in_flight_seconds: float = 0
    flow_run: str | None = None

    def wants(self, record: Record) -> bool:
        """Whether this prompt is to be asked again."""
        if record.asked_by is not None and record.asked_by == self.flow_run:
            return False
        match record.state:
            case "warning":
                return self.warnings
            case "failed" | "lost":
                return self.failed
            case "unknown":
                return self.unknown and not record.can_be_polled
            case "asked":
                young = timedelta(seconds=self.in_flight_seconds)
                asked_at = record.asked_at or datetime.min.replace(tzinfo=UTC)
                return self.unknown and datetime.now(UTC) - asked_at > young
            case _:
                return False


def _anew(record: Record) -> Record:
    """A record for asking again: what it has cost and stored so far is kept."""
    return record.model_copy(
        update={
            "credits_before": record.credits_before + record.credits_used,
            "credits_used": 0,
            "offset": record.offset + (len(record.generation.image_urls) if record.generation else 0),
            "generation": None,
            "generation_id": None,
            "message": None,
            "images": dict(record.images),
            "thumbnails": dict(record.thumbnails),
        }
    )


class Job(GenerationHooks):
    """One prompt of a run. It writes what the client tells it into the ledger.

    Not a dataclass: Prefect walks through those that it finds in a task's parameters.

    Args:
        position: The prompt's place in the list, from 1.
        record: What the ledger knows of it.
        estimate: What it will cost in credits; None if the API does not say.
        ledger: Where to write.
        again: Whether to ask although it was asked, and may be paid, already.
        wanted: What to ask; by default what the record says.
    """

    def __init__(
        self,
        position: int,
        record: Record,
        estimate: Credits | None,
        ledger: Ledger,
        *,
        again: bool = False,
        wanted: tuple[ImagePrompt, ImageRequest] | None = None,
    ) -> None:
        self.position = position
        self.record = record
        self.estimate = estimate
        self.ledger = ledger
        self.again = again
        self._wanted = wanted
        self._sent: set[str] = set()
        self._before: tuple[Record, Credits, Credits] | None = None
        self.at_risk: Credits = 0
        """Credits that requests of this run may have cost that have no answer and were sent again."""
        self.paid_already: Credits = 0
        """Credits that requests of this run have cost that were sent again all the same."""
        self.settled: Credits = 0
        """What the run's budget has been told of it so far."""
        self.lost_at = 0.0
        """When its answer was given up, by the monotonic clock."""
        self.cost_told = True
        """Whether the API itself said what it cost."""
        self.error: Exception | None = None
        self.copy_errors: list[Exception] = []
        self.stopped: Callable[[], str | None] = lambda: None
        self.write: Callable[[Job], bool] = lambda _: False
        self.stop: Callable[[str, NanoBananaError], None] = lambda *_: None
        self.show: Callable[[Job, int, str], None] = lambda *_: None

    @property
    def prompt(self) -> ImagePrompt:
        """What is asked for."""
        return self._wanted[0] if self._wanted and self.to_ask else self.record.prompt

    @property
    def to_ask(self) -> bool:
        """Whether the API is to be asked for it."""
        return self.again or self.record.safe_to_send

    @property
    def reused(self) -> bool:
        """Whether what is known of it is an earlier run's doing."""
        return not self.record.safe_to_send and self.record.attempt not in self._sent

    def sending(self) -> None:
        """Write down that a request leaves.

        Raises:
            NotSent: If the run was stopped; the request does not leave.
            Claimed: If another run of the batch asks for the same; likewise.
            NanoBananaError: If it could not be written; likewise.
        """
        why = self.stopped()
        if why is not None:
            raise NotSent(why)
        before, record = self.record, _anew(self.record)
        if self._wanted:
            record.prompt, record.request = self._wanted
        record.state = "asked"
        record.asked_at = datetime.now(UTC)
        record.asked_by = self.ledger.flow_run
        record.attempt = uuid4().hex
        try:
            self.ledger.claim(record)
        except Claimed:
            raise
        except NanoBananaError as error:
            self.stop(str(error), error)  # before the next request can leave, which would fail likewise
            # It may have been written all the same, and would then look like a request that left.
            with suppress(NanoBananaError):
                if self.ledger.holds(record):
                    self.ledger.write(before)
            raise
        self._before = (before, self.at_risk, self.paid_already) if self.again else None
        if before.attempt in self._sent and self.again:
            self.at_risk = self.worst
            self.paid_already += before.credits_used
        self._sent.add(record.attempt)
        self.record = record

    def not_charged(self, error: NotCharged) -> None:
        """Write down that the request cost nothing: what was known before it still holds."""
        if self._before is not None:
            self.record, self.at_risk, self.paid_already = self._before
        else:
            self.record.state = "not_charged"
            self.record.message = error.message
        if isinstance(error, HOPELESS):
            self.stop(str(error), error)  # before the next request can leave
        self.write(self)

    def lost(self) -> None:
        """Write down that a request left, and nothing says what came of it."""
        self.lost_at = time.monotonic()
        record, error = self.record, self.error
        gone = isinstance(error, ApiError) and error.status_code == 404
        if record.state != "submitted" or gone:
            record.state = "unknown"
        if isinstance(error, ApiError):
            record.generation_id = record.generation_id or error.generation_id
        record.message = str(error or "no answer was recorded")
        self.write(self)

    def submitted(self, submission: Submission) -> None:
        """Write down the id by which the generation's end can be asked for."""
        record = self.record
        record.state = "submitted"
        record.generation_id = submission.generation_id
        self._costs(submission.credits_used, self.estimate if submission.mode == "async" else 0)
        self.write(self)

    def progress(self, percent: int, message: str) -> None:
        """Show how far the generation is."""
        self.show(self, percent, message)

    def answered(self, generation: Generation) -> None:
        """Write down what was paid, before the slot is free for the next request.

        So a run that is killed leaves no more prompts `unknown` than it had requests in flight.
        """
        record = self.record
        record.generation = generation
        record.message = generation.message
        record.state = "generated" if generation.status == "completed" else generation.status
        record.generation_id = generation.generation_id or record.generation_id
        self._costs(generation.credits_used, record.credits_used or self.estimate)
        self.write(self)

    def _costs(self, told: Credits | None, estimate: Credits | None) -> None:
        self.cost_told = told is not None
        self.record.credits_used = told if told is not None else estimate or 0

    @property
    def worst(self) -> Credits:
        """What this prompt may have cost besides `credits_used`, in credits."""
        open_end = self.record.state in ("asked", "unknown", "submitted")
        more = self.estimate or 0 if open_end and not self.record.credits_used else 0
        return self.at_risk + more


def outcome_of_record(record: Record, estimate: Credits | None) -> tuple[OutcomeStatus, str | None]:
    """The end to which earlier runs had brought a prompt, or in which they had died; and why."""
    match record.state:
        case "stored" | "warning" | "failed":
            return record.state, record.message
        case "lost":
            return "failed", record.message
        case "generated":
            return "failed", record.message or "paid, but its images were not copied yet"
        case "asked":
            when = f"{record.asked_at:%Y-%m-%d %H:%M} UTC" if record.asked_at else "some time"
            why = f"a run asked at {when} and recorded no answer: it died, or is still waiting"
            return "unknown", f"{why}; {maybe_paid(estimate)}"
        case "submitted":
            why = (
                record.message
                or f"generation {record.generation_id} was begun; its end was not seen yet"
            )
            paid = "paid" if record.credits_used else "maybe paid"
            return "unknown", f"{why}; {paid}, and the batch's next run asks for its end"
        case "unknown":
            return "unknown", f"{record.message}; {maybe_paid(estimate)}"
        case _:
            return "skipped", record.message or "not asked yet"


def make_outcome(
    position: int,
    record: Record,
    status: OutcomeStatus,
    message: str | None,
    *,
    reused: bool,
    at_risk: Credits = 0,
    paid_already: Credits = 0,
) -> GalleryItem:
    """Make the outcome of a prompt, and what the pages show of it."""
    earlier = reused and (record.credits_used > 0 or status == "unknown")
    generation = record.generation if status != "skipped" else None
    outcome = Outcome(
        position=position,
        prompt=record.prompt,
        status=status,
        generation=generation and without_data(generation),
        images=tuple(record.images[n] for n in sorted(record.images)),
        credits_used=record.credits_used + (record.credits_before if earlier else paid_already),
        credits_at_risk=at_risk,
        reused=earlier,
        message=message,
    )
    thumbnails = tuple(record.thumbnails.get(n, "") for n in sorted(record.images))
    return GalleryItem(outcome, thumbnails, record.request.quantity)


def maybe_paid(estimate: Credits | None) -> str:
    """What an unknown outcome may have cost."""
    cost = "an unknown number of" if estimate is None else estimate
    return f"maybe paid ({cost} credits), and not asked again"


def metadata(record: Record) -> Mapping[str, str]:
    """What the objects in S3 say of themselves."""
    generation = record.generation
    return {
        "model": generation.model if generation else record.request.model,
        "generation-id": (generation and generation.generation_id) or "",
        "credits": str(record.credits_used),
        "prompt": record.request.prompt,
    }


def without_data(generation: Generation) -> Generation:
    """The generation without pictures in its URLs, which would swell reports and manifests."""
    urls = tuple(
        url.partition(",")[0] + ",..." if url.startswith("data:") else url
        for url in generation.image_urls
    )
    return generation.model_copy(update={"image_urls": urls})
