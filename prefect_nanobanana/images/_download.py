"""From an image's URL onto this machine."""

from __future__ import annotations

import base64
import binascii
import re
import socket
import time
from contextlib import closing
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from prefect_nanobanana._common.http import retry_after_seconds
from prefect_nanobanana._version import __version__
from prefect_nanobanana.errors import ImageNotCopied
from prefect_nanobanana.images._addresses import Addresses
from prefect_nanobanana.images._body import IN_MEMORY_BYTES, Body
from prefect_nanobanana.images._network import Connect, ImageNetwork, deadline

MAX_IMAGE_BYTES = 100 * 1024 * 1024
DOWNLOAD_TIMEOUT_SECONDS = 120.0
"""For a whole image, redirects included."""
MAX_REDIRECTS = 5
USER_AGENT = f"Mozilla/5.0 (compatible; prefect-nanobanana/{__version__})"
"""Some image hosts refuse the default agents of libraries with 403, as public clients have seen."""

_HEADERS = {"User-Agent": USER_AGENT, "Accept": "image/*", "Accept-Encoding": "identity"}
"""And no more: no key, cookie, referrer or password."""
_PIECE_BYTES = IN_MEMORY_BYTES
"""Read at once. A small image comes as one piece, which is never copied; with many threads, taking turns
for smaller ones costs much time."""

_NOT_READY = {403, 404}
"""What a CDN may answer that has not got an image yet; and what it answers for ever later on."""
_BUSY = {408, 425, 429}


class TransientDownloadError(ImageNotCopied):
    """A failure that may pass."""

    def __init__(
        self, message: str, retry_after_seconds: float | None = None, *, gone: bool = False
    ) -> None:
        super().__init__(message, gone=gone)
        self.retry_after_seconds = retry_after_seconds


class Downloader:
    """Fetches images; safe to use from many threads.

    Args:
        addresses: Where they may be fetched from.
        connections: How many connections stay open for the next image.
        connect: Makes the connections.
    """

    def __init__(
        self,
        addresses: Addresses,
        connections: int,
        connect: Connect = socket.create_connection,
    ) -> None:
        self._images = ImageNetwork(addresses, connections, connect)

    def close(self) -> None:
        """Close all connections."""
        self._images.close()

    def fetch(self, url: str) -> Body:
        """Fetch an image, as the host sends it.

        Args:
            url: Where it is: https, http at a trusted host, or a `data:` URL.

        Returns:
            Its body, for the caller to close.

        Raises:
            TransientDownloadError: If another try may help.
            ImageNotCopied: If it cannot be had.
            OSError: If there is no room for it.
        """
        body = Body()
        try:
            if url.startswith("data:"):
                body.write(_from_data_url(url))
            else:
                self._read(url, body)
            body.finish()
        except BaseException:
            body.close()
            raise
        return body

    def _read(self, url: str, body: Body) -> None:
        started = time.monotonic()
        try:
            with deadline(DOWNLOAD_TIMEOUT_SECONDS), closing(self._open(url)) as answer:
                body.expect(_checked(answer, url))
                body.md5_at_host = _md5(answer.headers.get("etag", ""))
                while piece := answer.read(_PIECE_BYTES):
                    if body.size + len(piece) > MAX_IMAGE_BYTES:
                        raise ImageNotCopied(f"{shown(url)} is larger than {MAX_IMAGE_BYTES} bytes")
                    body.write(piece)
        except ValueError:  # urllib3's are such, and name whole URLs, signatures and all
            raise ImageNotCopied(
                f"{shown(url)} cannot be fetched: it is no web address, or leads to none"
            ) from None
        except HTTPError as error:
            if time.monotonic() - started > DOWNLOAD_TIMEOUT_SECONDS:
                raise TransientDownloadError(
                    f"{shown(url)} did not arrive within {DOWNLOAD_TIMEOUT_SECONDS:g} s"
                ) from None
            raise TransientDownloadError(f"{shown(url)} could not be fetched ({_why(error)})") from None

    def _open(self, url: str) -> urllib3.BaseHTTPResponse:
        at = url
        for _ in range(MAX_REDIRECTS + 1):
            # Each hop is checked, so that a redirect cannot lead where a link may not.
            answer = self._images.get(at, _HEADERS)
            location = answer.get_redirect_location()
            if not location:
                return answer
            with closing(answer):
                answer.read(_PIECE_BYTES)  # then the connection can be used again
            at = urljoin(at, location)
        raise ImageNotCopied(f"{shown(url)} leads to more than {MAX_REDIRECTS} redirects")


def shown(url: str) -> str:
    """A URL fit for messages and records: no `data:` body, and no query, which may hold a signature."""
    if url.startswith("data:"):
        return url[:40].partition(",")[0] + ",..."
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return url.partition("?")[0].rpartition("@")[2][:80]
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _why(error: HTTPError) -> str:
    """What urllib3 says, without saying it twice."""
    said = [*map(str, error.args)]
    more = [text for text in said[1:] if text not in said[0]]
    return f"{type(error).__name__}: {' '.join(said[:1] + more)}"


def _checked(answer: urllib3.BaseHTTPResponse, url: str) -> int:
    """How many bytes the body of an answer will have; 0 if it does not say."""
    status = answer.status
    if status != 200:
        said = f"{shown(url)} answered {status}"
        if status in _NOT_READY or status in _BUSY or status >= 500:
            raise TransientDownloadError(
                said, retry_after_seconds(answer.headers), gone=status in _NOT_READY
            )
        raise ImageNotCopied(said, gone=400 <= status < 500)
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise ImageNotCopied(f"{shown(url)} came compressed, which was not asked for")
    said = answer.headers.get("content-length", "")
    length = int(said) if said.isdecimal() else 0
    if length > MAX_IMAGE_BYTES:
        raise ImageNotCopied(f"{shown(url)} is larger than {MAX_IMAGE_BYTES} bytes")
    return length


def _md5(tag: str) -> str | None:
    """The MD5 that a tag is, as those of hosts that are object stores themselves; nothing of another."""
    bare = tag.strip().strip('"').lower()
    return bare if re.fullmatch("[0-9a-f]{32}", bare) else None


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
        raise ImageNotCopied(f"{shown(url)} is no readable data: URL") from None
    if len(content) > MAX_IMAGE_BYTES:
        raise ImageNotCopied(f"{shown(url)} is larger than {MAX_IMAGE_BYTES} bytes")
    return content
