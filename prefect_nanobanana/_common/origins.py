"""Where a server is: scheme, host and port, of which the first and the last may be left open."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Origin:
    """A server, or several where scheme or port are left open.

    Attributes:
        host: A name or an address, as `bare` makes it.
        scheme: `http` or `https`; None for both.
        port: Its port; None for any.
    """

    host: str
    scheme: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read what people write: `images.example`, `10.0.0.7:9000`, `http://[fd12::1]:9000`.

        Raises:
            ValueError: If it is something else.
        """
        scheme, separator, rest = text.strip().rpartition("://")
        scheme = scheme.lower()
        if separator and scheme not in PORTS:
            raise ValueError("the scheme must be http or https")
        if rest.count(":") > 1 and not rest.startswith("["):
            rest = f"[{rest}]"
        parts = urlsplit(f"//{rest}")
        port, host = parts.port, bare(parts.hostname or "")
        if separator and port is None:
            port = PORTS[scheme]
        path = parts.path if separator else parts.path or parts.netloc.endswith(":")
        named = parts.username is None and not parts.query and not parts.fragment
        if not host or not named or path not in ("", "/", False) or set(host) & set(" \t\r\n\\%"):
            raise ValueError("it must be a host, with scheme and port or without")
        return cls(host, scheme or None, port)

    def __str__(self) -> str:
        if self.scheme is None and self.port is None:
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        named = host if self.port in (None, PORTS.get(self.scheme or "")) else f"{host}:{self.port}"
        return named if self.scheme is None else f"{self.scheme}://{named}"

    def covers(self, scheme: str, host: str, port: int) -> bool:
        """Whether a server is this one, or one of these."""
        return self.host == bare(host) and self.scheme in (None, scheme) and self.port in (None, port)


def bare(host: str) -> str:
    """A host as it is compared: lower-case ASCII, without the brackets of IPv6 or a last dot."""
    host = host.strip("[]").rstrip(".").lower()
    with suppress(ValueError):
        return str(ip_address(host))
    with suppress(UnicodeError):
        return host.encode("idna").decode()
    return host


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system knows them.

    Raises:
        OSError: If it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
