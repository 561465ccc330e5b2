"""The one guard for all fetching from addresses that people or the API give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prefect_nanobanana.errors import ImageNotCopied, InvalidInput
from prefect_nanobanana.images._addresses import Addresses
from prefect_nanobanana.images._body import Body
from prefect_nanobanana.images._download import Downloader, TransientDownloadError
from prefect_nanobanana.images._inline import is_inline
from prefect_nanobanana.images._picture import NotAPicture, Picture, inspect
from prefect_nanobanana.images._urls import shown

CONNECTIONS = 32
"""So many stay open for the next image."""


@dataclass(frozen=True)
class Fetched:
    """An image that was fetched and checked.

    Attributes:
        body: Its bytes, for whoever fetched it to close.
        picture: What they are.
    """

    body: Body
    picture: Picture


class Fetcher:
    """Fetches images and lists of prompts; safe to use from many threads.

    An address must be https and public; the address that was checked is the one that is connected to,
    redirects are checked in the same way, one deadline holds over all of it, and bytes are bounded as
    they are after decoding. No message holds a user name, a password or a query of an address, and
    nothing logs it.

    Args:
        addresses: Where may be fetched from; or just the hosts that may be asked over plain http and in
            private networks, as `10.0.0.7` or, only at that port and scheme, `http://10.0.0.7:9000`.
        connections: How many connections stay open for the next image.

    Raises:
        InvalidInput: If one of the hosts is none, or the environment names a proxy of another kind.
    """

    def __init__(
        self, addresses: Addresses | Iterable[str] = (), connections: int = CONNECTIONS
    ) -> None:
        self._allowed = addresses if isinstance(addresses, Addresses) else Addresses(addresses)
        self._connections = connections
        self._downloader = Downloader(self._allowed, connections)

    def __reduce__(self) -> tuple[Any, ...]:
        # Connections stay where they are; another process has its own.
        return Fetcher, (self._allowed, self._connections)

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._downloader.close()

    def fetch(self, url: str, *, thumbnail: bool = False) -> Fetched:
        """Fetch an image.

        Args:
            url: Where it is: https, http at a trusted host, a `data:` URL, or the image in base64.
            thumbnail: Whether to make a small picture of it, too.

        Raises:
            TransientDownloadError: If another try may help.
            ImageNotCopied: If it cannot be had, or is no whole picture.
            OSError: If there is no room for it.
        """
        body = self._downloader.fetch(url)
        try:
            picture = inspect(body.file, thumbnail=thumbnail, length_told=body.length_told)
            return Fetched(body, picture)
        except NotAPicture as error:
            body.close()
            # A host may answer with a page, or cut an image short, while it is not ready.
            kind = ImageNotCopied if is_inline(url) else TransientDownloadError
            raise kind(f"{shown(url)}: {error}") from None
        except BaseException:
            body.close()
            raise

    def read(self, url: str, *, max_bytes: int, within_seconds: float) -> bytes:
        """Read a list of prompts.

        Args:
            url: Where it is: https, or http at a trusted host.
            max_bytes: More is refused, also if it is more only when it is decoded.
            within_seconds: For all of it, from the first connection to the last byte.

        Raises:
            InvalidInput: If it cannot be had; the message begins with the address, without user name,
                password and query.
        """
        try:
            return self._downloader.read(url, max_bytes, within_seconds)
        except ImageNotCopied as error:
            raise InvalidInput(str(error)) from None
