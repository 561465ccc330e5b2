"""From an image's URL to S3: streamed, checked, and stored once."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import tempfile
import time
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from prefect_nanobanana._answers import retry_after_seconds
from prefect_nanobanana._pace import Pace
from prefect_nanobanana._pictures import NotAPicture, Picture, inspect
from prefect_nanobanana._s3 import Bucket, Changed, StoreAway
from prefect_nanobanana._version import __version__
from prefect_nanobanana.errors import ImageNotCopied
from prefect_nanobanana.models import StoredImage

MAX_IMAGE_BYTES = 100 * 1024 * 1024
IN_MEMORY_BYTES = 1024 * 1024
"""Larger images are spooled to disk, so that many copies at once do not fill the memory."""
DOWNLOAD_TIMEOUT_SECONDS = 120.0
"""For a whole image: read time-outs start anew with each byte."""
RETRY_FOR_SECONDS = 60.0
MAX_REDIRECTS = 5
COPY_THREADS = 16
"""More threads copied no faster against the stores that were measured."""
USER_AGENT = f"Mozilla/5.0 (compatible; prefect-nanobanana/{__version__})"
"""Some image hosts refuse the default agents of libraries with 403, as public clients have seen."""

_PASSING = {403, 404, 408, 425, 429, 500, 502, 503, 504}
_METADATA_BYTES = 1800
"""S3 allows 2 KB of user metadata per object, names included."""


class _Passing(ImageNotCopied):
    """A failure that may pass."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class Copied:
    """A stored image, and a small picture of it as a `data:` URL."""

    image: StoredImage
    thumbnail: str


class Copier:
    """Copies images into a bucket; safe to use from many threads. Use it in a `with` statement.

    Args:
        bucket: Where to.
        trusted_hosts: Hosts that may be asked over plain http, as `127.0.0.1`.
        retry_for_seconds: How long a failure that may pass is tried again.
    """

    def __init__(
        self,
        bucket: Bucket,
        trusted_hosts: Iterable[str] = (),
        retry_for_seconds: float = RETRY_FOR_SECONDS,
    ) -> None:
        self._bucket = bucket
        self._trusted = {host.lower() for host in trusted_hosts}
        self._retry_for = retry_for_seconds
        self._http = httpx.Client(
            headers={"user-agent": USER_AGENT, "accept": "image/*", "accept-encoding": "identity"},
            timeout=httpx.Timeout(30, connect=10, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=COPY_THREADS),
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            # Called for each hop, so that a redirect cannot lead where a link may not.
            event_hooks={"request": [self._check_address]},
        )

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def copy(self, url: str, key: str, metadata: Mapping[str, str] | None = None) -> Copied:
        """Copy one image.

        Args:
            url: Where it is: https, http at a trusted host, or a `data:` URL.
            key: Where to put it, without extension; that comes from the image's bytes.
            metadata: User metadata; text outside ASCII is percent-encoded, long text cut.

        Returns:
            The stored image. One that was there already with the same bytes is not stored again.

        Raises:
            ImageNotCopied: If the image cannot be had, is no whole picture, or if the key holds
                something else.
            BucketNotUsable: If the bucket refuses.
        """
        pace = Pace(self._retry_for, again=(_Passing, StoreAway))
        while True:
            try:
                with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as file:
                    sha256 = self._fetch(url, file)
                    picture = _inspected(file, url)
                    return self._store(file, sha256, picture, url, key, dict(metadata or {}))
            except (_Passing, StoreAway) as error:
                delay = pace.delay_seconds(error)
            except OSError as error:
                raise ImageNotCopied(f"{_shown(url)}: no room for a copy on the way ({error})") from None
            time.sleep(delay)

    def _fetch(self, url: str, file: IO[bytes]) -> bytes:
        digest = hashlib.sha256()
        if url.startswith("data:"):
            content = _from_data_url(url)
            file.write(content)
            digest.update(content)
            return digest.digest()
        started, size = time.monotonic(), 0
        try:
            with self._http.stream("GET", url) as response:
                self._check_status(response, url)
                for chunk in response.iter_raw():
                    size += len(chunk)
                    if size > MAX_IMAGE_BYTES:
                        raise ImageNotCopied(f"{_shown(url)} is larger than {MAX_IMAGE_BYTES} bytes")
                    if time.monotonic() - started > DOWNLOAD_TIMEOUT_SECONDS:
                        raise _Passing(
                            f"{_shown(url)} did not arrive within {DOWNLOAD_TIMEOUT_SECONDS:g} s"
                        )
                    file.write(chunk)
                    digest.update(chunk)
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as error:
            raise ImageNotCopied(f"{_shown(url)} cannot be fetched ({error})") from None
        except httpx.HTTPError as error:
            raise _Passing(
                f"{_shown(url)} could not be fetched ({type(error).__name__}: {error})"
            ) from None
        return digest.digest()

    def _check_address(self, request: httpx.Request) -> None:
        if request.url.scheme == "http" and request.url.host.lower() not in self._trusted:
            raise ImageNotCopied(
                f"{_shown(str(request.url))} is not https: plain http is for the API's own host only"
            )
        # A redirect may carry what the first request did not.
        for header in ("authorization", "cookie", "referer"):
            request.headers.pop(header, None)

    @staticmethod
    def _check_status(response: httpx.Response, url: str) -> None:
        status = response.status_code
        if status != 200:
            said = f"{_shown(url)} answered {status}"
            if status in _PASSING:
                raise _Passing(said, retry_after_seconds(response.headers))
            raise ImageNotCopied(said)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ImageNotCopied(f"{_shown(url)} came compressed, which was not asked for")

    def _store(
        self,
        file: IO[bytes],
        sha256: bytes,
        picture: Picture,
        url: str,
        key: str,
        metadata: dict[str, str],
    ) -> Copied:
        size = file.seek(0, 2)
        key = f"{key}.{picture.extension}"
        image = StoredImage(
            uri=self._bucket.uri(key),
            key=key,
            content_type=picture.content_type,
            size_bytes=size,
            sha256=sha256.hex(),
            width=picture.width,
            height=picture.height,
            source_url=_shown(url),
        )
        if not self._is_there(image):
            file.seek(0)
            self._put(file, image, sha256, safe_metadata({"sha256": image.sha256, **metadata}))
        return Copied(image, picture.thumbnail)

    def _is_there(self, image: StoredImage) -> bool:
        """Whether the key holds these very bytes already.

        Raises:
            ImageNotCopied: If it holds something else, which is never overwritten.
        """
        try:
            head = self._bucket.client.head_object(Bucket=self._bucket.name, Key=image.key)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return False
            raise self._bucket.problem(error, image.key) from None
        except BotoCoreError as error:
            raise self._bucket.problem(error, image.key) from None
        there = {name.lower(): value for name, value in head.get("Metadata", {}).items()}
        if head["ContentLength"] == image.size_bytes and there.get("sha256") == image.sha256:
            return True
        raise ImageNotCopied(
            f"{image.uri} holds another object, which is not overwritten: move it, or use another batch"
        )

    def _put(self, file: Any, image: StoredImage, sha256: bytes, metadata: dict[str, str]) -> None:
        options: dict[str, Any] = {
            "Metadata": metadata,
            # Named explicitly, it is sent as a plain header that every store tried so far accepts.
            "ChecksumSHA256": base64.b64encode(sha256).decode(),
            "CacheControl": "public, max-age=31536000, immutable",
        }
        try:
            # Stores that know conditional writes settle a race here; the others keep the last one.
            self._bucket.put(image.key, file, image.content_type, IfNoneMatch="*", **options)
        except Changed:
            self._is_there(image)


def safe_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Make metadata that S3 takes: ASCII, without line breaks, at most 2 KB in all.

    Args:
        metadata: Names and texts; the last ones are cut first.

    Returns:
        The same, percent-encoded outside printable ASCII; `urllib.parse.unquote` undoes that.
    """
    left = _METADATA_BYTES
    safe = {}
    for name, text in metadata.items():
        left -= len(name)
        encoded = ""
        # Runs of spaces are folded: stores disagree on how they are signed.
        for c in " ".join(text.split()):
            part = c if " " <= c <= "~" and c != "%" else quote(c, safe="")
            if len(part) > left:
                break
            encoded += part
            left -= len(part)
        if encoded:
            safe[name] = encoded.rstrip(" ")
    return safe


def slug(text: str, longest: int = 40) -> str:
    """Make a short name for files: lower-case ASCII letters, digits and dashes.

    Args:
        text: Any text.
        longest: At most so many characters.

    Returns:
        The name; `image` if nothing is left of the text.
    """
    ascii_text = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")
    if len(words) > longest:
        words = words[:longest].rpartition("-")[0] or words[:longest]
    return words.strip("-") or "image"


def _inspected(file: Any, url: str) -> Picture:
    try:
        return inspect(file)
    except NotAPicture as error:
        # A host may answer with a page, or cut an image short, while it is not ready.
        kind = ImageNotCopied if url.startswith("data:") else _Passing
        raise kind(f"{_shown(url)}: {error}") from None


def _from_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    try:
        if not comma:
            raise ValueError
        if head.endswith(";base64"):
            content = base64.b64decode(unquote_to_bytes(body), validate=True)
        else:
            content = unquote_to_bytes(body)
    except (ValueError, binascii.Error):
        raise ImageNotCopied(f"{_shown(url)} is no readable data: URL") from None
    if len(content) > MAX_IMAGE_BYTES:
        raise ImageNotCopied(f"{_shown(url)} is larger than {MAX_IMAGE_BYTES} bytes")
    return content


def _shown(url: str) -> str:
    """A URL fit for messages and records: no `data:` body, and no query, which may hold a signature."""
    if url.startswith("data:"):
        return url[:40].partition(",")[0] + ",..."
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return url.partition("?")[0][:80]
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
