"""An outcome as it may be shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from prefect_nanobanana._common.addresses import without_signature
from prefect_nanobanana._common.references import bare_reference
from prefect_nanobanana._common.text import pictures_note, well_formed, without_signatures
from prefect_nanobanana._common.untrusted import is_preview
from prefect_nanobanana.models import Charge, Credits, Outcome, Provenance, unsigned_prompt
from prefect_nanobanana.picks import ImageId


@dataclass(frozen=True)
class GalleryItem:
    """An outcome with what the pages show of it.

    What it was made of may come from a record, and a record from anybody who can write the bucket. So it
    is corrected here, once for all pages: addresses lose userinfo and signature, and only what is a
    small picture stays a thumbnail.

    Attributes:
        outcome: What became of a prompt.
        thumbnails: Small pictures as `data:` URLs, one per image of the outcome; "" where there is none.
        quantity: How many images the API was asked for; None if that is not known.
        charges: What each request for it has cost, those of earlier runs included.
        spent_before: The part of its cost that requests before the last one had, which yielded nothing.
        provenance: Who asked for what, and when; None if that is not known.
    """

    outcome: Outcome
    thumbnails: tuple[str, ...] = ()
    quantity: int | None = None
    charges: tuple[Charge, ...] = ()
    spent_before: Credits = 0
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        images = self.outcome.images
        given = (*self.thumbnails, *[""] * len(images))[: len(images)]
        kept = (
            thumbnail if image.checked and is_preview(thumbnail) else ""
            for image, thumbnail in zip(images, given, strict=True)
        )
        object.__setattr__(self, "outcome", _presentable(self.outcome))
        object.__setattr__(self, "thumbnails", tuple(kept))
        if self.provenance is not None:
            object.__setattr__(self, "provenance", _bare(self.provenance))

    @property
    def delivered(self) -> int:
        """How many images its generation has yielded, as far as they are in S3."""
        generation = self.outcome.generation
        stored = len(self.outcome.images)
        return min(stored, len(generation.image_urls)) if generation else stored

    @property
    def image_ids(self) -> tuple[ImageId | None, ...]:
        """What each image of the outcome is known by; None where that is not known."""
        provenance, images = self.provenance, self.outcome.images
        if provenance is None or len(provenance.images) != len(images):
            return (None,) * len(images)
        return tuple((provenance.key, origin.place) for origin in provenance.images)

    @property
    def count_note(self) -> str | None:
        """Says so if another number of images came than was asked for."""
        generation = self.outcome.generation
        if self.quantity is None or generation is None or generation.status != "completed":
            return None
        return pictures_note(len(generation.image_urls), self.quantity)

    @property
    def without_image(self) -> Fraction:
        """The part of what this run has paid for it that no stored image came of, in credits."""
        if self.outcome.reused:
            return Fraction(self.outcome.credits_own)
        cost = Fraction(self.outcome.credits_used)
        if not self.outcome.images:
            return cost
        lacking = max(0, (self.quantity or 0) - self.delivered)
        before = Fraction(self.spent_before)
        return before + (cost - before) * Fraction(lacking, self.quantity or 1)


def _bare(provenance: Provenance) -> Provenance:
    request = provenance.request
    references = tuple(map(bare_reference, request.reference_image_urls))
    return replace(
        provenance,
        request=request.model_copy(update={"reference_image_urls": references}),
        variables=tuple((name, without_signatures(value)) for name, value in provenance.variables),
    )


def _presentable(outcome: Outcome) -> Outcome:
    changes: dict[str, Any] = {"prompt": unsigned_prompt(outcome.prompt)}
    if outcome.message:
        changes["message"] = without_signatures(well_formed(outcome.message))
    if outcome.generation is not None:
        generation = outcome.generation
        changes["generation"] = generation.model_copy(
            update={
                "image_urls": tuple(map(without_signature, generation.image_urls)),
                "message": generation.message and without_signatures(well_formed(generation.message)),
                "model": without_signatures(generation.model),
                "generation_id": generation.generation_id
                and without_signatures(generation.generation_id),
            }
        )
    if outcome.images:
        changes["images"] = tuple(
            image.model_copy(update={"source_url": without_signature(image.source_url)})
            for image in outcome.images
        )
    return outcome.model_copy(update=changes)
