"""From an address onto this machine."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import NoReturn

import urllib3
from urllib3.exceptions import HTTPError

from prefect_nanobanana._common.adjustable import Adjustable
from prefect_nanobanana._common.http import retry_after_seconds
from prefect_nanobanana._common.text import shortened
from prefect_nanobanana._version import __version__
from prefect_nanobanana.errors import ImageNotCopied
from prefect_nanobanana.images._addresses import Addresses
from prefect_nanobanana.images._body import IN_MEMORY_BYTES, Body
from prefect_nanobanana.images._encodings import CutShort, TooLarge, decoded
from prefect_nanobanana.images._inline import decode_inline, is_inline
from prefect_nanobanana.images._network import Connect, ImageNetwork, deadline
from prefect_nanobanana.images._urls import redirected, shown

MAX_IMAGE_BYTES = Adjustable(100 * 1024 * 1024)
DOWNLOAD_TIMEOUT_SECONDS = Adjustable(120.0)
"""For a whole image, redirects included."""
MAX_REDIRECTS = 20
"""As browsers."""
USER_AGENT = f"Mozilla/5.0 (compatible; prefect-nanobanana/{__version__})"
"""Some image hosts refuse the default agents of libraries with 403, as public clients have seen."""

_HEADERS = {"User-Agent": USER_AGENT, "Accept": "image/*, */*;q=0.8", "Accept-Encoding": "identity"}
"""And no more: no key, cookie, referrer or password."""
_PIECE_BYTES = IN_MEMORY_BYTES
"""Read at once. A small image comes as one piece, which is never copied; with many threads, taking turns
for smaller ones costs much time."""

_GOOD = {200, 201, 203, 226}
"""And 206, where the part is the whole."""
_GONE = {404, 410}
"""There is no such image, says its host. A CDN may say 404 of one that it has not got yet."""
_MAY_PASS = {202, 403, 404, 408, 425, 429}
"""Besides 5xx: not ready, or busy. Some CDNs answer 403 to what they have not got yet."""


class TransientDownloadError(ImageNotCopied):
    """A failure that may pass."""

    def __init__(
        self, message: str, retry_after_seconds: float | None = None, *, gone: bool = False
    ) -> None:
        super().__init__(message, gone=gone)
        self.retry_after_seconds = retry_after_seconds


class Downloader:
    """Fetches what is at an address; safe to use from many threads.

    Args:
        addresses: Where it may be.
        connections: How many connections stay open for the next image.
        connect: Makes the connections.
    """

    def __init__(
        self,
        addresses: Addresses,
        connections: int,
        connect: Connect = socket.create_connection,
    ) -> None:
        self._network = ImageNetwork(addresses, connections, connect)

    def close(self) -> None:
        """Close all connections."""
        self._network.close()

    def fetch(self, url: str) -> Body:
        """Fetch an image, as the host sends it.

        Args:
            url: Where it is: https, http at a trusted host, a `data:` URL, or the image in base64.

        Returns:
            Its body, for the caller to close.

        Raises:
            TransientDownloadError: If another try may help.
            ImageNotCopied: If it cannot be had.
            OSError: If there is no room for it.
        """
        body = Body()
        try:
            if is_inline(url):
                body.expect(0, length_told=True)
                body.write(_from_text(url))
            else:
                self._read(
                    url,
                    body.write,
                    body.expect,
                    MAX_IMAGE_BYTES.get(),
                    DOWNLOAD_TIMEOUT_SECONDS.get(),
                )
            body.finish()
        except BaseException:
            body.close()
            raise
        return body

    def read(self, url: str, max_bytes: int, within_seconds: float) -> bytes:
        """Read what is at an address.

        Args:
            url: Where it is: https, or http at a trusted host.
            max_bytes: More is refused, also if it is more only when it is decoded.
            within_seconds: For all of it, from the first connection to the last byte.

        Raises:
            ImageNotCopied: If it cannot be had.
        """
        content = bytearray()
        self._read(url, content.extend, None, max_bytes, within_seconds)
        return bytes(content)

    def _read(
        self,
        url: str,
        write: Callable[[bytes], object],
        expect: Callable[..., None] | None,
        max_bytes: int,
        within_seconds: float,
    ) -> None:
        started = time.monotonic()
        try:
            with deadline(within_seconds), closing(self._open(url)) as answer:
                length = _length(answer, url)
                encoding = answer.headers.get("content-encoding", "")
                if length > max_bytes:
                    raise TooLarge
                if expect is not None:
                    told = length > 0 or "chunked" in answer.headers.get("transfer-encoding", "").lower()
                    expect(length, length_told=told, md5_at_host=_md5(answer.headers.get("etag", "")))
                for piece in decoded(_pieces(answer), encoding, max_bytes):
                    write(piece)
        except TooLarge:
            raise ImageNotCopied(f"{shown(url)} is larger than {max_bytes} bytes") from None
        except CutShort:
            raise TransientDownloadError(
                f"{shown(url)}: what came compressed is broken or cut short"
            ) from None
        except ValueError:  # urllib3's are such, and name whole URLs, signatures and all
            raise ImageNotCopied(
                f"{shown(url)} cannot be fetched: it is not an https URL, or leads to none"
            ) from None
        except HTTPError as error:
            if time.monotonic() - started > within_seconds:
                raise TransientDownloadError(
                    f"{shown(url)} did not arrive within {within_seconds:g} s"
                ) from None
            raise TransientDownloadError(f"{shown(url)} could not be fetched ({_why(error)})") from None

    def _open(self, url: str) -> urllib3.BaseHTTPResponse:
        at = url
        for _ in range(MAX_REDIRECTS + 1):
            # Each hop is checked, so that a redirect cannot lead where a link may not.
            answer = self._network.get(at, _HEADERS)
            location = answer.get_redirect_location()
            if not location:
                return answer
            with closing(answer), suppress(HTTPError):
                answer.read(_PIECE_BYTES)  # then the connection can be used again
            at = redirected(at, location)
        raise ImageNotCopied(f"{shown(url)} leads to more than {MAX_REDIRECTS} redirects")


def _pieces(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    while piece := answer.read(_PIECE_BYTES):
        yield piece


def _why(error: HTTPError) -> str:
    """What urllib3 says, without saying it twice; it may repeat what a host has sent."""
    said = [*map(str, error.args)]
    more = [text for text in said[1:] if text not in said[0]]
    return shortened(" ".join(f"{type(error).__name__}: {' '.join(said[:1] + more)}".split()))


def _length(answer: urllib3.BaseHTTPResponse, url: str) -> int:
    """How many bytes the body of an answer will have; 0 if it does not say."""
    status = answer.status
    whole = re.fullmatch(r"bytes 0-(\d{1,18})/(\d{1,18})", answer.headers.get("content-range", ""))
    if status == 206 and whole and int(whole[1]) + 1 == int(whole[2]):
        status = 200
    if status not in _GOOD:
        _refuse(f"{shown(url)} answered {status}", status, retry_after_seconds(answer.headers))
    said = answer.headers.get("content-length", "")
    return int(said) if re.fullmatch(r"\d{1,18}", said, re.ASCII) else 0


def _refuse(said: str, status: int, after_seconds: float | None) -> NoReturn:
    gone = status in _GONE
    if status in _MAY_PASS or status >= 500:
        raise TransientDownloadError(said, after_seconds, gone=gone)
    raise ImageNotCopied(said, gone=gone)


def _md5(tag: str) -> str | None:
    """The MD5 that a tag is, as those of hosts that are object stores themselves; nothing of another."""
    bare = tag.strip().strip('"').lower()
    return bare if re.fullmatch("[0-9a-f]{32}", bare) else None


def _from_text(url: str) -> bytes:
    max_bytes = MAX_IMAGE_BYTES.get()
    if len(url) > 4 * max_bytes:
        raise ImageNotCopied(f"{shown(url)} is larger than {max_bytes} bytes")
    try:
        content = decode_inline(url)
    except ValueError:
        raise ImageNotCopied(f"{shown(url)} is no readable data: URL") from None
    if len(content) > max_bytes:
        raise ImageNotCopied(f"{shown(url)} is larger than {max_bytes} bytes")
    return content
