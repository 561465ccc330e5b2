"""What is known of one prompt of a batch, and how that changes: a table of states and pure transitions.

    planned      never asked: ask
    asked        a request left, no answer was recorded: maybe paid, never asked again
    submitted    the API has begun it and named it: ask for its end, which costs nothing
    not_charged  asked, and the API said that it charged nothing: ask
    generated    paid, images wait at their URLs: copy them
    stored       paid, all images are in S3: nothing to do
    warning      paid, refused by the safety check: nothing to do
    failed       paid, no image: nothing to do, unless the API said that it cost nothing
    unknown      asked, no usable answer came: maybe paid, never asked again
    lost         paid, but its images were gone before they were copied: nothing to do

A transition returns the record that follows; nothing else changes one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from prefect_nanobanana._common.references import bare_reference
from prefect_nanobanana._common.text import pictures_note, without_signatures
from prefect_nanobanana.errors import ApiError
from prefect_nanobanana.models import (
    Caller,
    Charge,
    Credits,
    Generation,
    ImagePrompt,
    ImageRequest,
    Moment,
    StoredImage,
    Submission,
    unsigned_prompt,
)

State = Literal[
    "planned",
    "asked",
    "submitted",
    "not_charged",
    "generated",
    "stored",
    "warning",
    "failed",
    "unknown",
    "lost",
]
Variables = dict[str, str] | None
MOST_IMAGES = 50
"""Of one generation: several times what the client keeps of an answer; a record may name thousands."""


class Record(BaseModel):
    """What is known of one prompt of a batch.

    Attributes:
        version: Of this format.
        key: The prompt's key.
        prompt: As it was given.
        request: What the API was, or will be, asked.
        variables: What the variables of its template stood for; earlier versions did not keep it.
        position: Its place in the list that named it last, from 1; plays no part in the key.
        state: How far it got.
        asked_at: When the last request left.
        asked_by: The call that sent it: the id of its flow run, or of the one above it and a digest.
        caller: The flow and the account that it was sent for.
        price: What it was to cost, in credits, by all that was known then.
        attempt: Tells that request from all others.
        generation: What the API answered.
        generation_id: The id by which its end can be asked for, once an answer named it.
        answer: The beginning of a paid answer that could not be read, so that a person can.
        credits_used: What it cost in credits; an estimate where `generation.credits_used` is None.
        credits_estimated: Whether that is an estimate, as no answer told it yet.
        credits_before: What earlier requests for the same cost, before it was asked again on request.
        earlier: What those have cost, one by one; earlier versions did not keep it.
        paid_by: What each of the calls that sent those has spent on it at most, in credits.
        offset: How many images those earlier requests yielded; places are counted on from there.
        images: What is in S3, by place: that of its URL in the generation, from 1, plus the offset.
        stored_at: When each of them was stored, by the same places; earlier versions did not keep it.
        thumbnails: Small pictures as `data:` URLs, by the same places.
        message: Why, for everything that is not well.
        updated_at: When this was written.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: int = 1
    key: str
    prompt: ImagePrompt
    request: ImageRequest
    variables: Variables = None
    position: int | None = None
    state: State = "planned"
    asked_at: Moment | None = None
    asked_by: str | None = None
    caller: Caller | None = None
    price: Credits | None = None
    attempt: str | None = None
    generation: Generation | None = None
    generation_id: str | None = None
    answer: str | None = None
    credits_used: Credits = 0
    credits_estimated: bool = False
    credits_before: Credits = 0
    earlier: tuple[Charge, ...] | None = None
    paid_by: dict[str, Credits] | None = None
    offset: int = 0
    images: dict[int, StoredImage] = {}
    stored_at: dict[int, Moment] | None = None
    thumbnails: dict[int, str] = {}
    message: str | None = None
    updated_at: Moment | None = None

    @property
    def safe_to_send(self) -> bool:
        """Whether asking cannot pay twice."""
        told = self.generation.credits_used if self.generation else None
        return self.state in ("planned", "not_charged") or (self.state == "failed" and told == 0)

    @property
    def can_be_polled(self) -> bool:
        """Whether the API can be asked, at no cost, what became of it."""
        return self.state in ("submitted", "unknown") and self.generation_id is not None

    @property
    def open(self) -> bool:
        """Whether a request left and nothing says what it cost."""
        return self.state in ("asked", "submitted", "unknown")

    def asked_in(self, asked_by: str | None) -> bool:
        """Whether it was this call that asked last, in this attempt or in an earlier one."""
        return self.asked_by is not None and self.asked_by == asked_by

    def ever_asked_in(self, asked_by: str | None) -> bool:
        """Whether this call has asked, and maybe paid, for it, in this attempt or in an earlier one."""
        before = asked_by is not None and asked_by in (self.paid_by or {})
        return before or self.maybe_paid_by(asked_by)

    def maybe_paid_by(self, asked_by: str | None) -> bool:
        """Whether it was this call that sent the last request, which was paid, or may have been."""
        return self.asked_in(asked_by) and not self.safe_to_send

    def paid_before_by(self, asked_by: str | None) -> Credits:
        """What a call has spent on it at most before the last request, in credits."""
        return max(0, (self.paid_by or {}).get(asked_by or "", 0))

    @property
    def missing(self) -> dict[int, str]:
        """The image URLs that are not in S3 yet, by place."""
        urls = self.generation.image_urls[:MOST_IMAGES] if self.generation else ()
        return {n: url for n, url in enumerate(urls, self.offset + 1) if n not in self.images}

    def age_seconds(self) -> float | None:
        """How long ago its request left, in seconds; None if none has."""
        if self.asked_at is None:
            return None
        return max(0.0, (datetime.now(UTC) - self.asked_at).total_seconds())

    def listed(
        self, position: int, prompt: ImagePrompt, request: ImageRequest, variables: Variables = None
    ) -> Self:
        """A list names it at this place; it says what to ask as long as nothing was asked."""
        if self.safe_to_send:
            changes = {"prompt": prompt, "request": request, "variables": variables or None}
            return self._with(position=position, **changes)
        return self._with(position=position)

    def asking(
        self,
        prompt: ImagePrompt,
        request: ImageRequest,
        asked_by: str | None,
        paid: Credits,
        ticket: str = "",
        *,
        caller: Caller | None = None,
        price: Credits | None = None,
        earlier: tuple[Charge, ...] = (),
        variables: Variables = None,
    ) -> Self:
        """A request leaves. What earlier ones have cost and stored is kept.

        Args:
            prompt: As it is given now.
            request: What the API is asked.
            asked_by: The call that sends it.
            paid: What the last request has cost at most, in credits.
            ticket: What the attempt begins with.
            caller: Whom it is sent for.
            price: What it is to cost, in credits, by all that is known.
            earlier: What requests before it have cost.
            variables: What the variables of its template stand for now.
        """
        paid_by = self.paid_by
        if self.asked_by is not None and self.maybe_paid_by(self.asked_by):
            paid_by = {**(paid_by or {}), self.asked_by: self.paid_before_by(self.asked_by) + paid}
        return self._with(
            paid_by=paid_by,
            prompt=prompt,
            request=request,
            variables=variables or None,
            state="asked",
            asked_at=datetime.now(UTC),
            asked_by=asked_by,
            caller=caller,
            price=price,
            earlier=earlier or None,
            attempt=ticket + uuid4().hex,
            credits_before=self.credits_before + self.credits_used,
            credits_used=0,
            credits_estimated=False,
            offset=self.offset + (len(self.generation.image_urls) if self.generation else 0),
            generation=None,
            generation_id=None,
            answer=None,
            message=None,
        )

    def submitted(self, submission: Submission, credits: Credits) -> Self:
        """The API has named the generation, and has taken, or will take, `credits`."""
        return self._with(
            state="submitted",
            generation_id=submission.generation_id,
            credits_used=credits,
            credits_estimated=submission.credits_used is None,
        )

    def answered(self, generation: Generation, credits: Credits) -> Self:
        """The generation has ended, and has cost `credits`."""
        return self._with(
            generation=generation,
            message=generation.message,
            state="generated" if generation.status == "completed" else generation.status,
            generation_id=generation.generation_id or self.generation_id,
            credits_used=credits,
            credits_estimated=generation.credits_used is None,
        )

    def not_charged(self, why: str | None) -> Self:
        """The request cost nothing."""
        return self._with(state="not_charged", message=why)

    def unanswered(self, error: Exception | None) -> Self:
        """A request left, and nothing says what came of it."""
        changes: dict[str, Any] = {"message": str(error or "no answer was recorded")}
        gone = isinstance(error, ApiError) and error.status_code == 404
        if self.state != "submitted" or gone:
            changes["state"] = "unknown"
        if isinstance(error, ApiError):
            changes["generation_id"] = self.generation_id or error.generation_id
            changes["answer"] = getattr(error, "body_excerpt", None)
        return self._with(**changes)

    def copied(self, place: int, image: StoredImage, thumbnail: str) -> Self:
        """One of its images is in S3."""
        return self._with(
            images={**self.images, place: image},
            stored_at={**(self.stored_at or {}), place: datetime.now(UTC)},
            thumbnails={**self.thumbnails, place: thumbnail},
        )

    def stored(self) -> Self:
        """All its images are in S3; says so if fewer came than were asked for, and paid."""
        generation, message = self.generation, None
        if generation is not None:
            came, asked = len(generation.image_urls), self.request.quantity
            message = generation.message or (pictures_note(came, asked) if came < asked else None)
        return self._with(state="stored", message=message)

    def not_copied(self, why: str) -> Self:
        """Images still wait at their URLs."""
        return self._with(message=why)

    def lost(self, why: str) -> Self:
        """Its images are gone."""
        return self._with(state="lost", message=why)

    def written(self) -> Self:
        """It is about to be written: what references are signed with is not kept."""
        urls = self.request.reference_image_urls
        request = self.request.model_copy(
            update={"reference_image_urls": tuple(map(bare_reference, urls))}
        )
        bare = {name: without_signatures(value) for name, value in (self.variables or {}).items()}
        changes = {"prompt": unsigned_prompt(self.prompt), "request": request, "variables": bare or None}
        return self._with(updated_at=datetime.now(UTC), **changes)

    def is_written(self, record: Self) -> bool:
        """Whether this, which was read, is that record as it was written, whenever that was."""
        written = record.written()
        return self._with(updated_at=written.updated_at) == written

    def _with(self, **changes: Any) -> Self:
        return self.model_copy(update=changes)
