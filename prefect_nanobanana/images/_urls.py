"""Addresses to the letter: as they were given, since a signature is over the exact text."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

import urllib3

from prefect_nanobanana._common.addresses import LONGEST_SHOWN
from prefect_nanobanana._common.origins import PORTS
from prefect_nanobanana._common.text import shortened

_LONGEST_HOST = 253
_KEPT = string.ascii_letters + string.digits + string.punctuation
_WEB = re.compile(r"(https?)://([^/?#\\]*)((?:[/?][^#]*)?)(?:#.*)?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class WebAddress:
    """An http or https URL.

    Attributes:
        scheme: `http` or `https`.
        host: In ASCII, with the brackets of IPv6.
        port: The port.
        target: Path and query, to the letter; what HTTP cannot send is percent-encoded. A user name, a
            password and a fragment are never sent.
    """

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> WebAddress:
        """Read a URL as browsers do.

        Raises:
            ValueError: If it is not an http or https URL.
        """
        found = _WEB.fullmatch(re.sub("[\t\r\n]", "", url.strip(" \t\r\n\0")))
        if found is None:
            raise ValueError
        scheme, target = found[1].lower(), found[3]
        server = urllib3.util.parse_url(f"{scheme}://{found[2].rpartition('@')[2]}")
        if not server.host or server.path or len(server.host) > _LONGEST_HOST:
            raise ValueError
        target = target if target.startswith("/") else f"/{target}"
        return cls(scheme, server.host, server.port or PORTS[scheme], quote(target, safe=_KEPT))

    @property
    def url(self) -> str:
        """All of it."""
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.target}"


def redirected(url: str, location: str) -> str:
    """Where a `Location` leads.

    Args:
        url: Where it came from.
        location: The header, each of its bytes as a character, which is how HTTP libraries read it.
    """
    raw = location.encode("latin-1", "replace")
    try:
        location = raw.decode()
    except UnicodeDecodeError:
        location = quote(raw, safe=_KEPT)
    # What is whole already is not taken apart, as that would change it.
    return location if re.match("https?://", location, re.IGNORECASE) else urljoin(url, location)


def shown(url: str) -> str:
    """A URL fit for messages and records: no `data:` body, and no query, which may hold a signature."""
    start = url[:2000].strip()
    if start[:5].lower() == "data:":
        return start[:40].partition(",")[0] + ",..."
    if "://" not in start[:20] and len(url) > LONGEST_SHOWN:
        return f"{start[:20]}... ({len(url)} characters)"
    try:
        parts = urlsplit(start)
        port = f":{parts.port}" if parts.port else ""
        text = f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
    except ValueError:
        text = re.split("[?#]", start)[0].rpartition("@")[2][:80]
    return shortened("".join(c if c.isprintable() else quote(c, errors="replace") for c in text))
