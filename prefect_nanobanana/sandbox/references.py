"""Fetches references as the API does; of this machine alone, as the sandbox sends nothing elsewhere."""

from __future__ import annotations

import http.client
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

FETCH_SECONDS = 10.0


def unreadable(references: Iterable[str]) -> str | None:
    """The first reference on this machine that cannot be fetched, or is no image; None if all can."""
    return next((url for url in references if _is_here(url) and not _is_image(url)), None)


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_image(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=FETCH_SECONDS)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return answer.status == 200 and answer.headers.get_content_maintype() == "image"
