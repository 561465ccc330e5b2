"""Where images and lists may be fetched from: public addresses, and the hosts that a block names.

An image's address comes out of an API's answer, and a redirect from whoever answers it. Followed
blindly, either could lead into the network that the flow runs in, or to a cloud's metadata service.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from prefect_nanobanana._common.addresses import without_userinfo
from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana._common.origins import Origin, bare, resolve
from prefect_nanobanana._common.public import Address, is_public
from prefect_nanobanana.errors import ImageNotCopied, InvalidInput

_NUMBERS = re.compile(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*", re.IGNORECASE)
_LOCAL_NAME = re.compile(r"[^.]+|.*\.(localhost|localdomain|local|internal|intranet|lan|home\.arpa)")


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
