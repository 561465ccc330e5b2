"""What is kept of batches, for how long, and what became of the rest."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from prefect_nanobanana.models.base import Credits, Frozen

PickStatus = Literal["rejected", "undecided", "kept"]


class RetentionPolicy(BaseModel):
    """What is no longer kept beside its batch. Records, manifests and pages always are.

    Attributes:
        batches: Names of batches that it concerns, as a pattern: `*` stands for any text, `?` for one
            character.
        images: Which of their images, by what people have decided in reviews.
        after_days: For so many days nothing was written into the batch, nor decided on the image.
        action: `move` to another folder of the bucket, or `delete`.
        to: That folder, beside the batches. A lifecycle rule of the bucket can do more with it.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # Prefect's form shows this, else all of the docstring.
        json_schema_extra={
            "description": "Which images are moved away or deleted, and when. The first policy whose "
            "batches and images fit counts, whatever its age."
        },
    )

    batches: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        default="*",
        title="Batches",
        description="A pattern for their names: * for any text, ? for one character.",
    )
    images: Annotated[frozenset[PickStatus], Field(min_length=1)] = Field(
        default=frozenset({"rejected"}),
        title="Images",
        description="By what people have decided. undecided is what nobody has looked at, too.",
    )
    after_days: float = Field(
        default=30,
        ge=1,
        le=36_500,
        title="After days",
        description="So long nothing was written into the batch, nor decided on the image.",
    )
    action: Literal["move", "delete"] = Field(
        default="move", title="Action", description="What is deleted was paid for, and is gone."
    )
    to: Annotated[str, Field(max_length=200)] = Field(
        default="archive",
        title="Move to",
        description="A folder beside the batches. Give the bucket a lifecycle rule for it.",
    )

    @field_validator("to")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        value = value.strip("/")
        if {"", ".", ".."} & set(value.split("/")) or any(c < " " or c == "\\" for c in value):
            raise ValueError("is not a folder beside the batches: give a name, as archive")
        return value


class BatchUsage(Frozen):
    """What a batch holds.

    Attributes:
        batch: Its name.
        prompts: Prompts that it has records of.
        images: Images in its folder.
        image_bytes: Their size together.
        copies: Objects that were made of images: kept copies in `picked/`, smaller ones in `derived/`.
        copies_bytes: Their size together.
        written_at: When a record or an image of it was written last, UTC.
        credits: What it has cost, in credits; None if there is no statement of it.
        kept: Images that people have kept.
        rejected: Images that they have rejected.
        removed: Images that were moved away or deleted, in this run or before.
        due: Images that a policy names now.
        due_bytes: Their size together.
        problem: Why a policy could not be applied to all that it names; None if nothing went wrong.
    """

    batch: str
    prompts: int
    images: int
    image_bytes: int
    copies: int
    copies_bytes: int
    written_at: datetime
    credits: Credits | None = None
    kept: int = 0
    rejected: int = 0
    removed: int = 0
    due: int = 0
    due_bytes: int = 0
    problem: str | None = None


class RetentionReport(Frozen):
    """What there is in a bucket's folder, and what policies have done with it.

    Attributes:
        dry_run: Whether nothing was changed.
        moved: Images that were moved.
        deleted: Images that were deleted.
        freed_bytes: What the deleted images held.
        batches: What each batch holds; of one that has changed, as it was before.
    """

    dry_run: bool
    moved: int = 0
    deleted: int = 0
    freed_bytes: int = 0
    batches: tuple[BatchUsage, ...] = ()

    @property
    def due(self) -> int:
        """Images that policies name."""
        return sum(each.due for each in self.batches)

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong, by batch."""
        return tuple(f"{each.batch}: {each.problem}" for each in self.batches if each.problem)
