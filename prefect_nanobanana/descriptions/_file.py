"""What is said of a batch's images in S3: `descriptions.jsonl`, a line per image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from prefect_nanobanana.models import Line, Moment, Text
from prefect_nanobanana.s3 import LineFile, ObjectStore

DESCRIPTIONS = "descriptions.jsonl"


class DescribedImage(Line):
    """What is said of one image.

    Attributes:
        key: The image's key in the bucket, when it was described.
        sha256: The hash of its bytes, in hexadecimal: these are described.
        alt_text: For people who do not see it.
        caption: What stands below it.
        described_at: When, UTC.
        describer: The name of the function that made it.
    """

    key: Text
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    alt_text: Annotated[Text, Field(max_length=1_000)] | None = None
    caption: Annotated[Text, Field(max_length=5_000)] | None = None
    described_at: Moment
    describer: Text


class Descriptions:
    """Reads and writes what is said of one batch's images.

    Args:
        store: Where the batch lies.
        batch: Its name.
    """

    def __init__(self, store: ObjectStore, batch: str) -> None:
        key, cure = store.key(batch, DESCRIPTIONS), "correct it, or remove the line"
        self._file = LineFile(store, key, DescribedImage, cure)

    def read(self) -> dict[str, DescribedImage]:
        """Read them, by the hash of the image's bytes.

        Raises:
            InvalidInput: If the file cannot be read; names the line.
            StorageError: If the store cannot be used.
        """
        return _by_hash(self._file.read())

    def add(self, described: Iterable[DescribedImage]) -> None:
        """Add descriptions; a new one of an image takes the place of the one before.

        Raises:
            InvalidInput: If what is there cannot be read.
            StorageError: If they cannot be written.
        """
        new = _by_hash(described)
        if new:
            self._file.update(lambda known: (_by_hash(known) | new).values())


def _by_hash(described: Iterable[DescribedImage]) -> dict[str, DescribedImage]:
    return {each.sha256: each for each in described}
