"""From an image's URL to S3: streamed, checked, and stored once."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import uuid4

from prefect_nanobanana._common import stopping
from prefect_nanobanana._common.backoff import Backoff
from prefect_nanobanana.errors import ImageNotCopied, InvalidInput
from prefect_nanobanana.images._addresses import Addresses
from prefect_nanobanana.images._download import TransientDownloadError
from prefect_nanobanana.images._fetcher import Fetched, Fetcher
from prefect_nanobanana.images._picture import NotAPicture, Picture, inspect
from prefect_nanobanana.images._upload import Uploader
from prefect_nanobanana.images._urls import shown
from prefect_nanobanana.models import StoredImage
from prefect_nanobanana.s3 import ObjectStore, StoreUnavailable


@dataclass(frozen=True)
class Copied:
    """A stored image, and a small picture of it as a `data:` URL, if one was asked for."""

    image: StoredImage
    thumbnail: str


class Copier:
    """Copies images into a bucket; safe to use from many threads. Use it in a `with` statement.

    Args:
        fetcher: Gets images; closed at the end.
        uploader: Stores them.
        retry_for_seconds: How long a failure that may pass is tried again.
    """

    THREADS = min(8 * (os.cpu_count() or 1), ObjectStore.POOL_CONNECTIONS * 3 // 4)
    """On two cores, more copied no faster; and records need connections, too."""

    def __init__(self, fetcher: Fetcher, uploader: Uploader, retry_for_seconds: float) -> None:
        self._fetcher = fetcher
        self._uploader = uploader
        self._retry_for = retry_for_seconds
        self._id = uuid4().hex

    def __reduce__(self) -> tuple[Any, ...]:
        parts = self._fetcher, self._uploader, self._retry_for
        return _here, (self._id, pickle.dumps(parts))

    @classmethod
    def for_bucket(
        cls,
        store: ObjectStore,
        addresses: Addresses | Iterable[str] = (),
        *,
        expected_images: int = 0,
    ) -> Copier:
        """Make one for a bucket, as patient as its storage options say.

        Args:
            store: Where to.
            addresses: Where images may be fetched from; or just the hosts that may be asked over plain
                http and in private networks, as `127.0.0.1`.
            expected_images: How many there will be, as far as that is known: for many, their folder is
                listed once, and not asked key by key.
        """
        return cls(
            Fetcher(addresses, cls.THREADS),
            Uploader(store, expected_images),
            store.options.retry_for_seconds,
        )

    @staticmethod
    def check_picture(content: bytes) -> Picture:
        """Check that bytes are a whole picture, of a kind that can be decoded here.

        Raises:
            ValueError: If they are none; says why.
        """
        try:
            return inspect(io.BytesIO(content), thumbnail=False)
        except NotAPicture as error:
            raise ValueError(str(error)) from None

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
            InvalidInput: If the key or a metadata name is none that S3 takes.
            ImageNotCopied: If the image cannot be had, is no whole picture, or if the key holds
                something else.
            StoreRefuses: If the store is full, or takes nothing so large.
            BucketNotUsable: If the bucket refuses.
            Stopped: If the run is stopped before another try.
        """
        _check_names(key, metadata or {})
        backoff = Backoff(self._retry_for, again=(TransientDownloadError, StoreUnavailable))
        fetched: Fetched | None = None
        try:
            while True:
                try:
                    fetched = fetched or self._fetcher.fetch(url, thumbnail=thumbnail)
                    image = self._image(url, key, fetched)
                    self._uploader.store(image, fetched.body, metadata or {})
                    return Copied(image, fetched.picture.thumbnail)
                except (TransientDownloadError, StoreUnavailable) as error:
                    delay = backoff.delay_seconds(error)
                except OSError as error:
                    raise ImageNotCopied(
                        f"{shown(url)}: no room for a copy on the way ({error})", fetched=True
                    ) from None
                stopping.wait(delay)
        finally:
            if fetched is not None:
                fetched.body.close()

    def _image(self, url: str, key: str, fetched: Fetched) -> StoredImage:
        body, picture = fetched.body, fetched.picture
        key = f"{key}.{picture.extension}"
        return StoredImage(
            uri=self._uploader.uri(key),
            key=key,
            content_type=picture.content_type,
            size_bytes=body.size,
            sha256=body.sha256.hex(),
            width=picture.width,
            height=picture.height,
            source_url=shown(url),
            checked=picture.checked,
            marks=picture.marks,
            perceptual_hash=picture.perceptual_hash or None,
        )


@lru_cache(maxsize=4)
def _here(_: str, parts: bytes) -> Copier:
    """This process's own of a copier in another one: the same, with its connections, for each image."""
    return Copier(*pickle.loads(parts))


def _check_names(key: str, metadata: Mapping[str, str]) -> None:
    """Refuse what would leave the bucket's folder, or break a request.

    Raises:
        InvalidInput: Naming the key or the metadata.
    """
    if re.search(r"[\x00-\x1f\x7f]", key) or any(part in (".", "..") for part in key.split("/")):
        raise InvalidInput(
            f"key: {key[:80]!r} cannot be an object's key: leave out '.', '..' and control characters"
        )
    for name in metadata:
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise InvalidInput(
                f"metadata: S3 does not take the name {name[:80]!r}: use letters, digits, - _ and ."
            )
        if name.lower() == "sha256":
            raise InvalidInput("metadata: sha256 is the name of an image's own hash: use another name")
