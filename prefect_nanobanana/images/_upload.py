"""The one place that decides how an image gets into the store: put, compare, put again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from prefect_nanobanana._common.naming import safe_metadata
from prefect_nanobanana.errors import ImageNotCopied
from prefect_nanobanana.images._body import Body
from prefect_nanobanana.images._listing import Listing
from prefect_nanobanana.models import StoredImage
from prefect_nanobanana.s3 import ObjectCorrupted, ObjectStore, PreconditionFailed, StoredObject

PUT_TRIES = 3
"""So often an image is sent to a store that does not keep what it is sent."""
FEW = 8
"""With more images than that, it pays to list what is in their folder."""

_There = Literal["missing", "whole", "damaged"]


class Uploader:
    """Stores images once, whole, and over nothing else; safe to use from many threads.

    Args:
        store: Where to.
        expected_images: How many there will be, as far as that is known.
    """

    def __init__(self, store: ObjectStore, expected_images: int = 0) -> None:
        self._store = store
        self._expected_images = expected_images
        self._listing = Listing(store) if expected_images > FEW else None

    def __reduce__(self) -> tuple[Any, ...]:
        return Uploader, (self._store, self._expected_images)

    def uri(self, key: str) -> str:
        """The `s3://` address of a key."""
        return self._store.uri(key)

    def store(self, image: StoredImage, body: Body, metadata: Mapping[str, str]) -> None:
        """Store an image, unless it is there already.

        Args:
            image: What and where it is.
            body: Its bytes.
            metadata: User metadata; text outside ASCII is percent-encoded, long text cut.

        Raises:
            ImageNotCopied: If the key holds something else, which is never overwritten, or if the store
                does not keep what it is sent.
            StorageError: If the store does not take it.
        """
        there: _There = "missing" if self._is_free(image.key) else self._look(image, body)
        for _ in range(PUT_TRIES):
            if there == "whole":
                return
            there = self._put(image, body, metadata, overwrite=there == "damaged")
            if there == "damaged":
                there = self._look(image, body)  # it may be somebody else's by now
        if there != "whole":
            raise ImageNotCopied(
                f"{image.uri}: the store does not give back the bytes that it was sent, after "
                f"{PUT_TRIES} tries: do not trust it",
                fetched=True,
            )

    def _is_free(self, key: str) -> bool:
        """Whether nothing need be looked up before a put."""
        # A store that refuses to write over an object is not asked beforehand whether there is one.
        refuses = self._store.capabilities.conditional_writes
        return bool(refuses) or (self._listing is not None and self._listing.take(key))

    def _look(self, image: StoredImage, body: Body) -> _There:
        """Look what the key holds.

        Raises:
            ImageNotCopied: If it holds something else.
        """
        there = self._store.head(image.key)
        if there is None:
            return "missing"
        told = there.metadata.get("sha256")  # some stores keep no metadata
        if told in (None, image.sha256):
            same_size = there.size in (None, image.size_bytes)
            # Some stores keep what they got of an upload that was cut off.
            found: _There = self._compare(image, body, there) if same_size else "damaged"
            if told or found == "whole":
                return found
        raise ImageNotCopied(
            f"{image.uri} holds another object, which is not overwritten: move it, or use another batch",
            fetched=True,
        )

    def _put(
        self, image: StoredImage, body: Body, metadata: Mapping[str, str], *, overwrite: bool
    ) -> _There:
        options: dict[str, Any] = {
            "Metadata": safe_metadata({"sha256": image.sha256, **metadata}),
            # Named explicitly, it is sent as a plain header that every store tried so far accepts.
            "ChecksumSHA256": body.checksum,
        }
        if not overwrite:
            # Stores that know conditional writes settle a race here; the others keep the last one.
            options["IfNoneMatch"] = "*"
        body.file.seek(0)
        # A file is sent in small pieces, which costs time; what is in memory can go in one.
        content = body.file if body.whole is None else body.whole
        try:
            said = self._store.put(image.key, content, image.content_type, "image", **options)
        except PreconditionFailed:
            return self._look(image, body)
        return "whole" if self._store.checks_uploads else self._compare(image, body, said)

    def _compare(self, image: StoredImage, body: Body, said: StoredObject) -> _There:
        """Compare what the store says of an object to what it was sent, or else read the object."""
        # Encrypted with keys of its own, an object's tag is not its MD5: then its checksum counts.
        if said.encrypted_by_kms and said.sha256 == body.checksum:
            return "whole"
        # The store has made its tag of what it got. If the host had made the same of what it sent, then
        # nothing has changed in between.
        if said.tag and (said.tag == body.md5_at_host or said.tag == body.md5):
            return "whole"
        digest = hashlib.sha256()
        try:
            for chunk in self._store.read(image.key):
                digest.update(chunk)
        except ObjectCorrupted:
            return "damaged"
        return "whole" if digest.digest() == body.sha256 else "damaged"
