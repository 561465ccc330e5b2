"""From an image's URL to S3: streamed, checked, and stored once."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from prefect_nanobanana._common.backoff import Backoff
from prefect_nanobanana._common.naming import safe_metadata
from prefect_nanobanana.errors import ImageNotCopied
from prefect_nanobanana.images._addresses import Addresses
from prefect_nanobanana.images._body import Body
from prefect_nanobanana.images._download import TransientDownloadError
from prefect_nanobanana.images._fetcher import Fetcher
from prefect_nanobanana.images._listing import Listing
from prefect_nanobanana.images._picture import Picture
from prefect_nanobanana.images._urls import shown
from prefect_nanobanana.models import StoredImage
from prefect_nanobanana.s3 import (
    POOL_CONNECTIONS,
    ObjectCorrupted,
    ObjectStore,
    PreconditionFailed,
    StoreUnavailable,
    status_of,
)

RETRY_FOR_SECONDS = 60.0
PUT_TRIES = 3
"""So often an image is sent to a store that does not keep what it is sent."""
FEW = 8
"""With more images than that, it pays to find out what the store does, and what is in the folder."""


@dataclass(frozen=True)
class Copied:
    """A stored image, and a small picture of it as a `data:` URL, if one was asked for."""

    image: StoredImage
    thumbnail: str


@dataclass(frozen=True)
class _Item:
    """An image on its way."""

    body: Body
    picture: Picture
    image: StoredImage


_There = Literal["missing", "whole", "damaged"]


class Copier:
    """Copies images into a bucket; safe to use from many threads. Use it in a `with` statement.

    Args:
        bucket: Where to.
        addresses: Where they may be fetched from; or just the hosts that may be asked over plain http
            and in private networks, as `127.0.0.1`.
        retry_for_seconds: How long a failure that may pass is tried again.
    """

    THREADS = min(8 * (os.cpu_count() or 1), POOL_CONNECTIONS * 3 // 4)
    """On two cores, more copied no faster; and records need connections, too."""

    def __init__(
        self,
        bucket: ObjectStore,
        addresses: Addresses | Iterable[str] = (),
        retry_for_seconds: float = RETRY_FOR_SECONDS,
    ) -> None:
        self._bucket = bucket
        self._retry_for = retry_for_seconds
        self._fetcher = Fetcher(addresses, self.THREADS)
        self._listing = Listing(bucket)
        self._probing = threading.Lock()
        self._numbers = itertools.count()

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._fetcher.close()

    def copy(
        self,
        url: str,
        key: str,
        metadata: Mapping[str, str] | None = None,
        *,
        thumbnail: bool = False,
    ) -> Copied:
        """Copy one image.

        Args:
            url: Where it is: https, http at a trusted host, or a `data:` URL.
            key: Where to put it, without extension; that comes from the image's bytes.
            metadata: User metadata; text outside ASCII is percent-encoded, long text cut.
            thumbnail: Whether to make a small picture of it, which costs more than the whole copy.

        Returns:
            The stored image. One that was there already with the same bytes is not stored again.

        Raises:
            ImageNotCopied: If the image cannot be had, is no whole picture, or if the key holds
                something else.
            BucketNotUsable: If the bucket refuses.
        """
        backoff = Backoff(self._retry_for, again=(TransientDownloadError, StoreUnavailable))
        many = next(self._numbers) >= FEW
        item: _Item | None = None
        try:
            while True:
                try:
                    item = item or self._fetch(url, key, thumbnail)
                    self._store(item, metadata or {}, many)
                    return Copied(item.image, item.picture.thumbnail)
                except (TransientDownloadError, StoreUnavailable) as error:
                    delay = backoff.delay_seconds(error)
                except OSError as error:
                    raise ImageNotCopied(
                        f"{shown(url)}: no room for a copy on the way ({error})"
                    ) from None
                time.sleep(delay)
        finally:
            if item is not None:
                item.body.close()

    def _fetch(self, url: str, key: str, thumbnail: bool) -> _Item:
        fetched = self._fetcher.fetch(url, thumbnail=thumbnail)
        body, picture = fetched.body, fetched.picture
        key = f"{key}.{picture.extension}"
        image = StoredImage(
            uri=self._bucket.uri(key),
            key=key,
            content_type=picture.content_type,
            size_bytes=body.size,
            sha256=body.sha256.hex(),
            width=picture.width,
            height=picture.height,
            source_url=shown(url),
        )
        return _Item(body, picture, image)

    def _store(self, item: _Item, metadata: Mapping[str, str], many: bool) -> None:
        probe = many and self._bucket.checks is None
        # A store that refuses to write over an object is not asked beforehand whether there is one; but
        # for what it is to refuse for another reason, it is: some lose what was there.
        refuses = self._bucket.conditional and not probe
        free = refuses or self._listing.take(item.image.key, many=many)
        there: _There = "missing" if free else self._look(item)
        for _ in range(PUT_TRIES):
            if there == "whole":
                return
            there = self._put(item, metadata, probe=probe, overwrite=there == "damaged")
            if there == "damaged":
                there = self._look(item)  # it may be somebody else's by now
        if there != "whole":
            raise ImageNotCopied(
                f"{item.image.uri}: the store does not give back the bytes that it was sent, after "
                f"{PUT_TRIES} tries: do not trust it"
            )

    def _look(self, item: _Item) -> _There:
        """Look what the key holds.

        Raises:
            ImageNotCopied: If it holds something else, which is never overwritten.
        """
        image, bucket = item.image, self._bucket
        try:
            # A store that knows checksums says the object's if it is asked to.
            head = bucket.client.head_object(Bucket=bucket.name, Key=image.key, ChecksumMode="ENABLED")
        except ClientError as error:
            if status_of(error) == 404:
                return "missing"
            raise bucket.problem(error, image.key) from None
        except BotoCoreError as error:
            raise bucket.problem(error, image.key) from None
        there = {name.lower(): value for name, value in head.get("Metadata", {}).items()}
        if there.get("sha256") != image.sha256:
            raise ImageNotCopied(
                f"{image.uri} holds another object, which is not overwritten: move it, or use another "
                "batch"
            )
        if head["ContentLength"] != image.size_bytes:
            return "damaged"  # some stores keep what they got of an upload that was cut off
        return self._compare(item, head)

    def _put(self, item: _Item, metadata: Mapping[str, str], *, probe: bool, overwrite: bool) -> _There:
        image = item.image
        options: dict[str, Any] = {
            "Metadata": safe_metadata({"sha256": image.sha256, **metadata}),
            # Named explicitly, it is sent as a plain header that every store tried so far accepts.
            "ChecksumSHA256": item.body.checksum,
        }
        if not overwrite:
            # Stores that know conditional writes settle a race here; the others keep the last one.
            options["IfNoneMatch"] = "*"
        # A file is sent in small pieces, which costs time; what is in memory can go in one.
        body = item.body.file if item.body.whole is None else item.body.whole
        item.body.file.seek(0)
        sent = image.key, body, image.content_type
        try:
            said = self._probe(*sent, **options) if probe and not overwrite else None
            if said:
                return self._compare(item, said)
            item.body.file.seek(0)
            said = self._bucket.put(*sent, "image", **options)
            return "whole" if self._bucket.checks else self._compare(item, said)
        except PreconditionFailed:
            return self._look(item)

    def _probe(self, *sent: Any, **options: Any) -> Mapping[str, Any] | None:
        """Find out whether the store checks what it gets, by an image that one of the threads sends.

        Returns:
            What the store says of the image if it took it.
        """
        if self._bucket.checks is not None or not self._probing.acquire(blocking=False):
            return None
        try:
            self._bucket.checks, said = self._bucket.put_unfit(*sent, **options)
        finally:
            self._probing.release()
        return said

    def _compare(self, item: _Item, said: Mapping[str, Any]) -> _There:
        """Compare what the store says of an object to what it was sent, or else read the object."""
        tag, body = said["ETag"].strip('"'), item.body
        # Encrypted with keys of its own, an object's tag is not its MD5: then its checksum counts.
        encrypted = "aws:kms" in str(said.get("ServerSideEncryption"))
        if encrypted and said.get("ChecksumSHA256") == body.checksum:
            return "whole"
        # The store has made its tag of what it got. If the host had made the same of what it sent, then
        # nothing has changed in between.
        if tag == body.md5_at_host or tag == body.md5:
            return "whole"
        digest = hashlib.sha256()
        try:
            for chunk in self._bucket.read(item.image.key):
                digest.update(chunk)
        except ObjectCorrupted:
            return "damaged"
        return "whole" if digest.digest() == body.sha256 else "damaged"
