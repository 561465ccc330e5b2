"""One prompt on its way through a run, and what is written of it at each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from uuid import uuid4

from prefect_nanobanana.errors import (
    AccessNotEnabled,
    ApiError,
    AuthenticationFailed,
    CreditsUsedUp,
    NanoBananaError,
    NotCharged,
)
from prefect_nanobanana.ledger import Claimed, Ledger, Record
from prefect_nanobanana.models import Credits, Generation, ImagePrompt, Outcome, OutcomeStatus
from prefect_nanobanana.report import Told

HOPELESS = (CreditsUsedUp, AuthenticationFailed, AccessNotEnabled)
"""Refusals that no other prompt of the run would escape."""


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
        self.error: Exception | None = None
        self.copy_errors: list[Exception] = []
        self.stopped: Callable[[], str | None] = lambda: None
        self.write: Callable[[Job], bool] = lambda _: False
        self.stop: Callable[[str, NanoBananaError], None] = lambda *_: None

    @property
    def prompt(self) -> ImagePrompt:
        """What was asked for."""
        return self.record.prompt

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
        self.record.state = "asked"
        self.record.asked_at = datetime.now(timezone.utc)
        self.record.asked_by = self.ledger.flow_run
        self.record.attempt = uuid4().hex
        self.record.message = None
        try:
            self.ledger.claim(self.record)
        except Claimed:
            self.record.state = "planned"
            raise
        except NanoBananaError:
            self.record.state = "planned"
            # It may have been written all the same, and would then look like a request that left.
            with suppress(NanoBananaError):
                if self.ledger.holds(self.record):
                    self.ledger.write(self.record)
            raise

    def not_charged(self, error: NotCharged) -> None:
        """Write down that the request cost nothing."""
        self.record.state = "not_charged"
        self.record.message = error.message
        if isinstance(error, HOPELESS):
            self.stop(str(error), error)  # before the next request can leave
        self.write(self)

    def lost(self) -> None:
        """Write down that a request left and nothing says that it was not charged."""
        record, error = self.record, self.error
        record.state = "unknown"
        record.message = str(error or "no answer was recorded")
        if isinstance(error, ApiError) and error.generation_id:
            record.generation_id = error.generation_id
            record.message += f" (generation {error.generation_id})"
        self.write(self)

    def answered(self, generation: Generation) -> None:
        """Write down what was paid, before the slot is free for the next request.

        So a run that is killed leaves no more prompts `unknown` than it had requests in flight.
        """
        record = self.record
        record.generation = generation
        record.message = generation.message
        record.state = "generated" if generation.status == "completed" else generation.status
        told = generation.credits_used
        record.credits_used = told if told is not None else self.estimate or 0
        self.write(self)


def as_recorded(record: Record, estimate: Credits | None) -> tuple[OutcomeStatus, str | None]:
    """The end to which earlier runs had brought a prompt, or in which they had died; and why."""
    match record.state:
        case "stored" | "warning" | "failed":
            return record.state, record.message
        case "generated":
            return "failed", record.message or "paid, but its images were not copied yet"
        case "asked":
            when = f"{record.asked_at:%Y-%m-%d %H:%M} UTC" if record.asked_at else "some time"
            why = f"a run asked at {when} and recorded no answer: it died, or is still waiting"
            return "unknown", f"{why}; {maybe_paid(estimate)}"
        case "unknown":
            return "unknown", f"{record.message}; {maybe_paid(estimate)}"
        case _:
            return "skipped", record.message or "not asked yet"


def tell(
    position: int, record: Record, status: OutcomeStatus, message: str | None, *, reused: bool
) -> Told:
    """Make the outcome of a prompt, and what the pages show of it."""
    generation = record.generation if status != "skipped" else None
    outcome = Outcome(
        position=position,
        prompt=record.prompt,
        status=status,
        generation=generation and without_data(generation),
        images=tuple(record.images[n] for n in sorted(record.images)),
        credits_used=record.credits_used,
        reused=reused and record.credits_used > 0,
        message=message,
    )
    return Told(outcome, tuple(record.thumbnails.get(n, "") for n in sorted(record.images)))


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
