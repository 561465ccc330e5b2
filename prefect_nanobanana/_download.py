"""From an image's URL onto this machine."""

from __future__ import annotations

import base64
import binascii
import time
from urllib.parse import unquote_to_bytes, urlsplit

import httpcore
import httpx

from prefect_nanobanana._addresses import Addresses
from prefect_nanobanana._answers import retry_after_seconds
from prefect_nanobanana._bodies import Body
from prefect_nanobanana._network import ImageTransport, deadline
from prefect_nanobanana._version import __version__
from prefect_nanobanana.errors import ImageNotCopied

MAX_IMAGE_BYTES = 100 * 1024 * 1024
DOWNLOAD_TIMEOUT_SECONDS = 120.0
"""For a whole image, redirects included."""
MAX_REDIRECTS = 5
USER_AGENT = f"Mozilla/5.0 (compatible; prefect-nanobanana/{__version__})"
"""Some image hosts refuse the default agents of libraries with 403, as public clients have seen."""

_PASSING = {403, 404, 408, 425, 429, 500, 502, 503, 504}


class Passing(ImageNotCopied):
    """A failure that may pass."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Downloader:
    """Fetches images; safe to use from many threads.

    Args:
        addresses: Where they may be fetched from.
        connections: How many connections stay open for the next image.
        network: Makes the connections.
    """

    def __init__(
        self, addresses: Addresses, connections: int, network: httpcore.NetworkBackend | None = None
    ) -> None:
        self._http = httpx.Client(
            headers={"user-agent": USER_AGENT, "accept": "image/*", "accept-encoding": "identity"},
            timeout=httpx.Timeout(30, connect=10, pool=None),
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            # Checks each hop, so that a redirect cannot lead where a link may not.
            transport=ImageTransport(addresses, connections, network),
            # A redirect may carry what the first request did not.
            event_hooks={"request": [_say_nothing]},
            trust_env=False,  # a .netrc would send passwords
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def fetch(self, url: str) -> Body:
        """Fetch an image, as the host sends it.

        Args:
            url: Where it is: https, http at a trusted host, or a `data:` URL.

        Returns:
            Its body, for the caller to close.

        Raises:
            Passing: If another try may help.
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
            with deadline(DOWNLOAD_TIMEOUT_SECONDS), self._http.stream("GET", url) as response:
                body.expect(_checked(response, url))
                for chunk in response.iter_raw():
                    if body.size + len(chunk) > MAX_IMAGE_BYTES:
                        raise ImageNotCopied(f"{shown(url)} is larger than {MAX_IMAGE_BYTES} bytes")
                    if time.monotonic() - started > DOWNLOAD_TIMEOUT_SECONDS:
                        raise _too_slow(url)  # behind a proxy, no deadline has stopped it
                    body.write(chunk)
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as error:
            raise ImageNotCopied(f"{shown(url)} cannot be fetched ({error})") from None
        except httpx.HTTPError as error:
            if time.monotonic() - started > DOWNLOAD_TIMEOUT_SECONDS:
                raise _too_slow(url) from None
            raise Passing(
                f"{shown(url)} could not be fetched ({type(error).__name__}: {error})"
            ) from None


def shown(url: str) -> str:
    """A URL fit for messages and records: no `data:` body, and no query, which may hold a signature."""
    if url.startswith("data:"):
        return url[:40].partition(",")[0] + ",..."
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return url.partition("?")[0][:80]
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _too_slow(url: str) -> Passing:
    return Passing(f"{shown(url)} did not arrive within {DOWNLOAD_TIMEOUT_SECONDS:g} s")


def _say_nothing(request: httpx.Request) -> None:
    for header in ("authorization", "cookie", "referer"):
        request.headers.pop(header, None)


def _checked(response: httpx.Response, url: str) -> int:
    """How many bytes the body of an answer will have; 0 if it does not say."""
    status = response.status_code
    if status != 200:
        said = f"{shown(url)} answered {status}"
        if status in _PASSING:
            raise Passing(said, retry_after_seconds(response.headers))
        raise ImageNotCopied(said)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ImageNotCopied(f"{shown(url)} came compressed, which was not asked for")
    said = response.headers.get("content-length", "")
    length = int(said) if said.isdecimal() else 0
    if length > MAX_IMAGE_BYTES:
        raise ImageNotCopied(f"{shown(url)} is larger than {MAX_IMAGE_BYTES} bytes")
    return length


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
