"""One decision on one image."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from prefect_nanobanana.models import Line, Moment, StoredImage, Text

ImageId = tuple[str, int]
"""A prompt's key, and which of its images it is: what an image is known by in all runs."""
MOST_NOTE_CHARACTERS = 2_000


class Pick(Line):
    """What was decided on an image, and by which review.

    Attributes:
        batch: The batch's name.
        prompt_key: The prompt's key.
        place: Which of the prompt's images it is, from 1.
        key: The image's key in the bucket.
        sha256: The hash of its bytes, in hexadecimal: the decision is on these.
        picked: Whether it is kept; rejected otherwise.
        note: What the person has noted.
        decided_at: When the review took it over, UTC.
        review: The flow run that asked.
    """

    batch: str
    prompt_key: Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
    place: Annotated[int, Field(ge=1, lt=10**6)]
    key: Text
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    picked: bool
    note: Annotated[Text, Field(max_length=MOST_NOTE_CHARACTERS)] | None = None
    decided_at: Moment
    review: str | None = None

    def is_on(self, image: StoredImage) -> bool:
        """Whether it is on the bytes of this image, and not on others that were in its place."""
        return self.sha256 == image.sha256

    @property
    def image(self) -> ImageId:
        """What the image is known by."""
        return self.prompt_key, self.place
