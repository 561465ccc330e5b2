"""From an image's URL to a picture that was checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefect_nanobanana.errors import ImageNotCopied
from prefect_nanobanana.images._addresses import Addresses
from prefect_nanobanana.images._body import Body
from prefect_nanobanana.images._download import Downloader, TransientDownloadError, shown
from prefect_nanobanana.images._picture import NotAPicture, Picture, inspect

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
    """Fetches images and checks them; safe to use from many threads.

    Args:
        addresses: Where they may be fetched from; or just the hosts that may be asked over plain http
            and in private networks, as `127.0.0.1`.
        connections: How many connections stay open for the next image.
    """

    def __init__(
        self, addresses: Addresses | Iterable[str] = (), connections: int = CONNECTIONS
    ) -> None:
        allowed = addresses if isinstance(addresses, Addresses) else Addresses(addresses)
        self._downloader = Downloader(allowed, connections)

    def close(self) -> None:
        """Close all connections."""
        self._downloader.close()

    def fetch(self, url: str, *, thumbnail: bool = False) -> Fetched:
        """Fetch an image.

        Args:
            url: Where it is: https, http at a trusted host, or a `data:` URL.
            thumbnail: Whether to make a small picture of it, too.

        Raises:
            TransientDownloadError: If another try may help.
            ImageNotCopied: If it cannot be had, or is no whole picture.
            OSError: If there is no room for it.
        """
        body = self._downloader.fetch(url)
        try:
            return Fetched(body, inspect(body.file, thumbnail=thumbnail))
        except NotAPicture as error:
            body.close()
            # A host may answer with a page, or cut an image short, while it is not ready.
            kind = ImageNotCopied if url.startswith("data:") else TransientDownloadError
            raise kind(f"{shown(url)}: {error}", gone=True) from None
        except BaseException:
            body.close()
            raise
