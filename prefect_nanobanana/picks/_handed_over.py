"""What the review page hands over: `picks.json`, which a person, or anybody else, may have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.models import Text, parse_json
from prefect_nanobanana.picks._pick import MOST_NOTE_CHARACTERS, ImageId

MOST_BYTES = 16 * 1024 * 1024
"""Of such a file: notes on many thousand images."""


class Decision(BaseModel):
    """What a person has decided on an image.

    Attributes:
        picked: Whether it is kept; rejected otherwise; None if only a note was made.
        note: What the person has noted.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    picked: bool | None = None
    note: Annotated[Text, Field(max_length=MOST_NOTE_CHARACTERS)] | None = None


class _Image(Decision):
    prompt_key: str
    place: int
    sha256: str


class _Picks(BaseModel):
    model_config = ConfigDict(extra="ignore")

    version: Literal[1]
    batch: str
    images: Annotated[list[_Image], Field(max_length=1_000_000)]


def read_decisions(
    content: bytes | str, name: str, batch: str, images: Mapping[ImageId, str]
) -> dict[ImageId, Decision]:
    """Read what a review page has handed over.

    Args:
        content: A `picks.json`.
        name: Where it is, for errors.
        batch: The batch that it must be about.
        images: The images that there are, with the hashes of their bytes.

    Returns:
        What was decided, by image; on images that are there no more, or are others now, nothing.

    Raises:
        InvalidInput: If it is no such file, or is about another batch.
    """
    if len(content) > MOST_BYTES:
        raise InvalidInput(
            f"{name}: is larger than {MOST_BYTES:,} bytes: give the file that the page saved"
        )
    found = parse_json(_Picks, content, name, "give the file that the review page saved")
    if found.batch != batch:
        raise InvalidInput(
            f"{name}: is about batch {found.batch[:200]!r}, and not about {batch!r}: give the file that "
            "this batch's review page saved"
        )
    decided: dict[ImageId, Any] = {}
    for each in found.images:
        image = each.prompt_key, each.place
        if images.get(image) == each.sha256 and (each.picked is not None or each.note):
            decided[image] = Decision(picked=each.picked, note=(each.note or "").strip() or None)
    return decided
