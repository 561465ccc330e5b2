"""Which batches there are in a bucket's folder, by its list of objects alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from prefect_nanobanana.manifest._files import MANIFEST
from prefect_nanobanana.retention import REMOVED
from prefect_nanobanana.s3 import ObjectStore

_MOST_CHARACTERS = 200
"""Of a batch's name."""
_NEVER = datetime.min.replace(tzinfo=UTC)
_OBJECT = re.compile(
    r"(?P<batch>.+)/(?:(?P<record>records/[0-9a-f]{24}\.json)|(?P<image>images/[^/]+)"
    rf"|(?P<copy>(?:picked|derived)/[^/]+)|(?P<manifest>{re.escape(MANIFEST)})"
    rf"|(?P<removed>{re.escape(REMOVED)}))"
)


@dataclass(slots=True)
class ListedBatch:
    """A batch as the list of its objects shows it.

    Attributes:
        name: Its name.
        written: When a record or an image of it was written last; long ago if there is none.
        records: How many records it has: one per prompt.
        images: How many images.
        image_bytes: Their size together.
        copies: How many copies of images: kept ones in `picked/`, smaller ones in `derived/`.
        copies_bytes: Their size together.
        manifest: The tag that tells versions of its manifest apart; empty if the store lists none, and
            None if there is no manifest.
        published: When the manifest was written; long ago if there is none.
        removed: When it was last noted that an image is gone; longer ago if none is.
    """

    name: str
    written: datetime = _NEVER
    records: int = 0
    images: int = 0
    image_bytes: int = 0
    copies: int = 0
    copies_bytes: int = 0
    manifest: str | None = None
    published: datetime = _NEVER + timedelta(days=1)
    removed: datetime = _NEVER

    @property
    def is_outdated(self) -> bool:
        """Whether the manifest may not say all that is gone: stores tell times to the second."""
        return self.removed >= self.published

    def note(self, kind: str | None, written: datetime, size: int, etag: str) -> None:
        """Take note of an object, by the name of its group in the pattern."""
        match kind:
            case "record":
                self.records += 1
            case "image":
                self.images += 1
                self.image_bytes += size
            case "copy":
                self.copies += 1
                self.copies_bytes += size
                return
            case "removed":
                self.removed = written
                return
            case _:
                self.manifest, self.published = etag, written
                return
        self.written = max(self.written, written)


def list_batches(store: ObjectStore) -> list[ListedBatch]:
    """List the batches in the bucket's folder, by name.

    Args:
        store: The bucket and its folder; a request finds a thousand objects.

    Raises:
        BucketNotUsable: If the bucket cannot be listed.
        StorageError: If listing failed for another reason.
    """
    root = store.key() + "/" if store.key() else ""
    found: dict[str, ListedBatch] = {}
    for each in store.keys(root):
        if match := _OBJECT.fullmatch(each.key.removeprefix(root)):
            batch = found.setdefault(match["batch"], ListedBatch(match["batch"]))
            batch.note(match.lastgroup, each.written, each.size, each.etag)
    # A folder of images alone is somebody else's.
    batches = (
        batch
        for name, batch in found.items()
        if (batch.records or batch.manifest is not None) and len(name) <= _MOST_CHARACTERS
    )
    return sorted(batches, key=lambda batch: batch.name)
