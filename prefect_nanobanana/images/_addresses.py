"""Where images and lists may be fetched from: public addresses, and the hosts that a block names.

An image's address comes out of an API's answer, and a redirect from whoever answers it. Followed
blindly, either could lead into the network that the flow runs in, or to a cloud's metadata service.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from prefect_nanobanana._common.addresses import without_userinfo
from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana._common.origins import Origin, bare, resolve
from prefect_nanobanana.errors import ImageNotCopied, InvalidInput

Address = IPv4Address | IPv6Address

_NAT64 = ip_network("64:ff9b::/96")
_NOT_FOR_IMAGES = [
    ip_network("168.63.129.16/32"),  # Azure's platform, at an address that is otherwise public
    ip_network("192.0.0.0/24"),  # Oracle's metadata; older Pythons take most of it for public
    ip_network("100.64.0.0/10"),  # Alibaba's metadata and services among them
    ip_network("161.26.0.0/16"),  # IBM's services inside of its cloud
    ip_network("166.8.0.0/14"),  # the same
    ip_network("199.36.153.0/24"),  # Google's services inside of its cloud
    ip_network("192.88.99.0/24"),  # relays of 6to4, given up by RFC 7526
    ip_network("64:ff9b:1::/48"),  # NAT64 of a network's own, RFC 8215
    ip_network("100::/32"),  # discarded, RFC 6666 and 9780
    ip_network("2001::/23"),  # protocols' own, as Teredo, which stands for IPv4 addresses
    ip_network("3fff::/20"),  # for documentation, RFC 9637, which older Pythons take for public
    ip_network("5f00::/16"),  # segment routing, RFC 9602
]
_NUMBERS = re.compile(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*", re.IGNORECASE)
_LOCAL_NAME = re.compile(r"[^.]+|.*\.(localhost|localdomain|local|internal|intranet|lan|home\.arpa)")


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


class Addresses:
    """Says where images and lists may be fetched from.

    Args:
        trusted_hosts: Hosts that may be asked over plain http, and wherever they are, as
            `images.example`; with port or scheme, only at that: `10.0.0.7:9000`, `http://10.0.0.7`.
        resolve: Finds the addresses of a name.
        is_public: Whether anybody may connect to an address.

    Raises:
        InvalidInput: If one of the hosts is none.
    """

    def __init__(
        self,
        trusted_hosts: Iterable[str] = (),
        resolve: Callable[[str, int], list[str]] = resolve,
        is_public: Callable[[Address], bool] = is_public,
    ) -> None:
        self._trusted = []
        for host in trusted_hosts:
            try:
                self._trusted.append(Origin.parse(host))
            except ValueError as error:
                raise InvalidInput(
                    f"trusted_hosts: {quoted(without_userinfo(host))} is not a host: {error}"
                ) from None
        self._resolve = resolve
        self._is_public = is_public

    def check(self, scheme: str, host: str, port: int, *, proxied: bool = False) -> None:
        """Check what can be seen of a server without a connection to it.

        Args:
            scheme: `http` or `https`.
            host: A name or an address.
            port: Its port.
            proxied: Whether a proxy resolves names, so that no address of theirs is seen here.

        Raises:
            ImageNotCopied: If it must not be asked.
        """
        if self._is_trusted(scheme, host, port):
            return
        if scheme != "https":
            raise ImageNotCopied(
                f"{scheme}://{host[:100]} is not https: plain http is for the API's own host, and for "
                "those that the credentials block lists under image_hosts"
            )
        name = bare(host)
        try:
            address = ip_address(name)
        except ValueError:
            # Some read 0177.0.0.1 as 127.0.0.1 and some as 177.0.0.1, and no honest host is named so.
            if _NUMBERS.fullmatch(name) or (proxied and _LOCAL_NAME.fullmatch(name)):
                raise _refused(host) from None
        else:
            if not self._is_public(address):
                raise _refused(host)

    def of(self, scheme: str, host: str, port: int) -> list[str]:
        """The addresses that a server may be connected to at.

        Raises:
            ImageNotCopied: If any of them is not for images.
            OSError: If it has none.
        """
        found = self._resolve(host, port)
        if not self._is_trusted(scheme, host, port):
            for address in found:
                if not self._is_public(ip_address(address)):
                    raise _refused(host, address)
        return found

    def _is_trusted(self, scheme: str, host: str, port: int) -> bool:
        return any(origin.covers(scheme, host, port) for origin in self._trusted)


def _refused(host: str, address: str = "") -> ImageNotCopied:
    where = host[:100] if address in ("", bare(host)) else f"{host[:100]} ({address})"
    return ImageNotCopied(
        f"{where} is no public address, and nothing is fetched from it: if what you want is there, list "
        "the host in the credentials block under image_hosts"
    )
