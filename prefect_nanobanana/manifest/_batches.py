"""Which batches there are in a bucket's folder, by its list of objects alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from prefect_nanobanana.manifest._files import MANIFEST
from prefect_nanobanana.s3 import ObjectStore

_MOST_CHARACTERS = 200
"""Of a batch's name."""
_OBJECT = re.compile(rf"(.+)/(?:(records)/[0-9a-f]{{24}}\.json|(images)/[^/]+|({re.escape(MANIFEST)}))")


@dataclass(slots=True)
class ListedBatch:
    """A batch as the list of its objects shows it.

    Attributes:
        name: Its name.
        written: When anything of it was written last.
        records: How many records it has: one per prompt.
        images: How many images.
        image_bytes: Their size together.
        manifest: The tag that tells versions of its manifest apart; empty if the store lists none, and
            None if there is no manifest.
    """

    name: str
    written: datetime
    records: int = 0
    images: int = 0
    image_bytes: int = 0
    manifest: str | None = None

    def note(self, kind: str, written: datetime, size: int, etag: str) -> None:
        """Take note of an object: of a record, an image, or the manifest."""
        self.written = max(self.written, written)
        match kind:
            case "records":
                self.records += 1
            case "images":
                self.images += 1
                self.image_bytes += size
            case _:
                self.manifest = etag


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
            name = match[1]
            if name not in found:
                found[name] = ListedBatch(name, each.written)
            kind = match[2] or match[3] or match[4]
            found[name].note(kind, each.written, each.size, each.etag)
    # A folder of images alone is somebody else's.
    batches = (
        batch
        for name, batch in found.items()
        if (batch.records or batch.manifest is not None) and len(name) <= _MOST_CHARACTERS
    )
    return sorted(batches, key=lambda batch: batch.name)
