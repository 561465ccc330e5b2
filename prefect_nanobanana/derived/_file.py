"""The smaller copies of a batch's images in S3: `derived.jsonl`, a line for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from prefect_nanobanana._common.untrusted import is_below
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.models import Line, Moment, Text, read_lines, to_lines
from prefect_nanobanana.s3 import ObjectStore

DERIVED = "derived.jsonl"
_Size = Annotated[int, Field(ge=0, lt=2**53)]
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DerivedImage(Line):
    """A smaller copy of an image.

    Attributes:
        source: The key of the image that it was made of.
        source_sha256: The hash of that image's bytes.
        key: Its own key.
        content_type: As `image/webp`.
        width: In pixels.
        height: In pixels.
        size_bytes: Its size in bytes.
        sha256: The hash of its bytes.
        asked_width: The width that was asked for; the image may be narrower.
        quality: That it was made with.
        made_at: When, UTC.
    """

    source: Text
    source_sha256: _Hash
    key: Text
    content_type: Annotated[str, Field(pattern=r"^image/[a-z]{3,8}$")]
    width: _Size
    height: _Size
    size_bytes: _Size
    sha256: _Hash
    asked_width: _Size
    quality: _Size
    made_at: Moment

    @property
    def wish(self) -> tuple[str, str, int, str, int]:
        """What it was made for: the same wish is granted once."""
        return self.source, self.source_sha256, self.asked_width, self.content_type, self.quality


class DerivedImages:
    """Reads and writes what was made of one batch's images.

    Args:
        store: Where the batch lies.
        batch: Its name.
    """

    def __init__(self, store: ObjectStore, batch: str) -> None:
        self._store = store
        self._folder = store.key(batch, "derived")
        self._key = store.key(batch, DERIVED)

    def key(self, name: str) -> str:
        """Where a smaller copy of this name goes."""
        return f"{self._folder}/{name}"

    def read(self) -> list[DerivedImage]:
        """Read what there is.

        Raises:
            InvalidInput: If the file cannot be read; names the line.
            StorageError: If the store cannot be used.
        """
        found, cure, images = self._store.find(self._key), "remove the line", []
        lines = found[0] if found is not None else b""
        for place, image in read_lines(DerivedImage, lines, self._store.uri(self._key), cure):
            if not is_below(image.key, self._folder):
                raise InvalidInput(f"{place}: key: is not in the batch's folder derived/: {cure}")
            images.append(image)
        return images

    def by_source(self) -> dict[str, list[DerivedImage]]:
        """The same by the key of the image that each was made of."""
        by_source: dict[str, list[DerivedImage]] = defaultdict(list)
        for each in self.read():
            by_source[each.source].append(each)
        return by_source

    def write(self, images: Iterable[DerivedImage]) -> None:
        """Write all that there is.

        Raises:
            StorageError: If it cannot be written.
        """
        self._store.put(self._key, to_lines(images), "application/x-ndjson")
