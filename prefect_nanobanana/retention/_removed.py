"""What became of images that are no longer where they were stored: `removed.jsonl`, a line for each.

A line is written before its object is touched: whatever dies when, nothing is gone that no line names.
So an image that is there has not gone, whatever a line says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from prefect_nanobanana.models import Line, Moment, StoredImage, Text
from prefect_nanobanana.s3 import LineFile, ObjectStore

REMOVED = "removed.jsonl"


class RemovedImage(Line):
    """One image that was moved or deleted.

    Attributes:
        batch: The batch's name.
        prompt_key: The key of the image's prompt.
        place: Which of the prompt's images it is, from 1.
        key: The object's key, where it was.
        sha256: The hash of its bytes, in hexadecimal.
        size_bytes: Its size in bytes.
        action: `moved` or `deleted`.
        moved_to: `s3://` address of where it was moved.
        picked: What people had decided on it; None if nobody had.
        policy: The policy that named it, as JSON.
        at: When, UTC.
        run: The flow run that did it.
    """

    batch: str
    prompt_key: Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
    place: Annotated[int, Field(ge=1, lt=10**6)]
    key: Text
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0, lt=2**53)]
    action: Literal["moved", "deleted"]
    moved_to: Annotated[Text, Field(pattern=r"^s3://")] | None = None
    picked: bool | None = None
    policy: Text | None = None
    at: Moment
    run: str | None = None

    def is_of(self, image: StoredImage) -> bool:
        """Whether it is about the bytes of this image."""
        return (self.key, self.sha256) == (image.key, image.sha256)


class RemovedImages:
    """Reads and writes what was removed of one batch's images.

    Args:
        store: Where the batch lies.
        batch: Its name.
    """

    def __init__(self, store: ObjectStore, batch: str) -> None:
        self._store = store
        self._folder = store.key(batch, "images")
        key, cure = store.key(batch, REMOVED), "correct it, or remove the line"
        self._file = LineFile(store, key, RemovedImage, cure)

    @property
    def uri(self) -> str:
        """Where that is written."""
        return self._file.uri

    def read(self) -> dict[str, RemovedImage]:
        """Read what has gone, by the key that it would have here if the batch was copied.

        Raises:
            InvalidInput: If the file cannot be read; names the line.
            StorageError: If the store cannot be used.
        """
        lines = {self._here(line.key): line for line in self._file.read()}
        if not lines:
            return {}
        there = {each.key for each in self._store.keys(self._folder + "/")}
        return {
            key: line.model_copy(update={"key": key}) for key, line in lines.items() if key not in there
        }

    def add(self, removed: Iterable[RemovedImage]) -> None:
        """Add lines. Those that there are stay: the file says all that was ever done.

        Raises:
            InvalidInput: If what is there cannot be read.
            StorageError: If they cannot be written.
        """
        new = list(removed)
        if new:
            self._file.update(lambda known: [*known, *new])

    def _here(self, key: str) -> str:
        return f"{self._folder}/{key.rpartition('/')[2]}"


def removal_of(image: StoredImage, removed: Mapping[str, RemovedImage]) -> RemovedImage | None:
    """What became of an image, if it is among what is not where it was, by its key."""
    line = removed.get(image.key)
    return line if line is not None and line.is_of(image) else None
