"""Where images may be fetched from: public addresses, and the hosts that a block names.

An image's address comes out of an API's answer, and a redirect from whoever answers it. Followed
blindly, either could lead into the network that the flow runs in, or to a cloud's metadata service.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from urllib3.util import Url

from prefect_nanobanana.errors import ImageNotCopied

Address = IPv4Address | IPv6Address

_NAT64 = ip_network("64:ff9b::/96")
_NOT_FOR_IMAGES = [
    ip_network("168.63.129.16/32"),  # Azure's platform, at an address that is otherwise public
    ip_network("192.0.0.0/24"),  # Oracle's metadata; older Pythons take most of it for public
]


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, also if an IPv6 address stands for it."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) % 2**32))
        if address.is_site_local or (address.sixtofour and not is_public(address.sixtofour)):
            return False
    odd = address.is_multicast or address.is_reserved or any(address in n for n in _NOT_FOR_IMAGES)
    return address.is_global and not odd


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system knows them.

    Raises:
        OSError: If it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Addresses:
    """Says where images may be fetched from.

    Args:
        trusted_hosts: Names or addresses that may be asked over plain http, and wherever they are.
        resolve: Finds the addresses of a name.
        is_public: Whether anybody may connect to an address.
    """

    def __init__(
        self,
        trusted_hosts: Iterable[str] = (),
        resolve: Callable[[str, int], list[str]] = resolve,
        is_public: Callable[[Address], bool] = is_public,
    ) -> None:
        self._trusted = {_bare(host) for host in trusted_hosts}
        self._resolve = resolve
        self._is_public = is_public

    def check(self, url: Url) -> None:
        """Check what can be seen of a URL itself.

        Raises:
            ImageNotCopied: If it must not be followed.
        """
        host = url.host or ""
        if url.scheme not in ("http", "https") or not host:
            raise ImageNotCopied(f"{url.scheme}: cannot be fetched, only https: can")
        if url.scheme == "http" and _bare(host) not in self._trusted:
            raise ImageNotCopied(
                f"http://{host}{url.path or ''} is not https: plain http is for the API's own host, and "
                "for those that the credentials block lists under image_hosts"
            )
        with suppress(ValueError):  # a name is resolved, and checked, when it is connected to
            address = str(ip_address(_bare(host)))
            self._check(host, address)

    def of(self, host: str, port: int) -> list[str]:
        """The addresses that a host may be connected to at.

        Raises:
            ImageNotCopied: If any of them is not for images.
            OSError: If it has none.
        """
        found = self._resolve(host, port)
        for address in found:
            self._check(host, address)
        return found

    def _check(self, host: str, address: str) -> None:
        if _bare(host) in self._trusted or self._is_public(ip_address(address)):
            return
        where = host if _bare(host) == address else f"{host} ({address})"
        raise ImageNotCopied(
            f"{where} is no public address, and no image is fetched from it: if your images are there, "
            "list the host in the credentials block under image_hosts"
        )


def _bare(host: str) -> str:
    """A host as it is compared: lower-case, without the brackets of IPv6 or a last dot."""
    return host.strip("[]").rstrip(".").lower()
