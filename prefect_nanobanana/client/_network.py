"""Connections to the API: one deadline for all that happens on them; in clear only to this machine.

Every request has a connection of its own, so that a connection's age is its request's. A time-out of
httpx starts anew with each byte: a server that sends one now and then, be it of its headers, or
`100 Continue` without end, would hold a slot of the account for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from prefect_nanobanana._common.origins import resolve
from prefect_nanobanana._common.tls import tls
from prefect_nanobanana.client._deadlines import AsyncStream, Clock, Stream
from prefect_nanobanana.errors import BadRequest, InvalidInput

Resolve = Callable[[str, int], list[str]]
Way = tuple[int, bool]
"""Through a proxy: the handshakes of TLS, and whether it answers in HTTP before the last of them."""


class Addresses:
    """Says where a host may be connected to.

    Args:
        in_clear: Whether the connection is in clear, and so only for this machine.
        allowed: Hosts that may be spoken with in clear all the same.
        resolve: Finds the addresses of a name.
    """

    def __init__(
        self, in_clear: bool = False, allowed: Collection[str] = (), resolve: Resolve = resolve
    ) -> None:
        self._in_clear = in_clear
        self._allowed = [host.strip("[]").rstrip(".").lower() for host in allowed]
        self._resolve = resolve

    def of(self, host: str, port: int) -> list[str]:
        """The addresses to connect to; the connection goes to what was checked.

        Raises:
            BadRequest: If the key would leave this machine in clear.
            httpcore.ConnectError: If there is none.
        """
        try:
            found = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from None
        if self._in_clear and host.strip("[]").rstrip(".").lower() not in self._allowed:
            for address in found:
                if not ip_address(address.partition("%")[0]).is_loopback:
                    raise BadRequest(
                        f"http://{host} leads to {address}, which is not this machine, and the API key "
                        "would be sent in clear: set the base URL to https://, or list the host in the "
                        "credentials block under image_hosts"
                    )
        return found


class Network(httpcore.NetworkBackend):
    """Makes connections for plain code."""

    def __init__(self, addresses: Addresses, way: Way = (0, False)) -> None:
        self._addresses, self._way, self._backend = addresses, way, httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first of a host's addresses that answers."""
        clock = Clock(*self._way, timeout)
        found = self._addresses.of(host, port)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for place, address in enumerate(found):
            left = clock.left(timeout, httpcore.ConnectTimeout)
            share = None if left is None else left / (len(found) - place)
            try:
                stream = self._backend.connect_tcp(address, port, share, local_address, socket_options)
                return Stream(stream, clock)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class AsyncNetwork(httpcore.AsyncNetworkBackend):
    """Makes connections for async code."""

    def __init__(self, addresses: Addresses, way: Way = (0, False)) -> None:
        self._addresses, self._way, self._backend = addresses, way, httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of a host's addresses that answers."""
        clock = Clock(*self._way, timeout)
        try:
            async with asyncio.timeout(timeout):
                found = await asyncio.to_thread(self._addresses.of, host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"{host} was not resolved in time") from None
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for place, address in enumerate(found):
            left = clock.left(timeout, httpcore.ConnectTimeout)
            share = None if left is None else left / (len(found) - place)
            try:
                stream = await self._backend.connect_tcp(
                    address, port, share, local_address, socket_options
                )
                return AsyncStream(stream, clock)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class Transport(httpx.HTTPTransport):
    """httpx's own, over connections of ours, which it has no public way to be given."""

    def __init__(self, base_url: str, allowed: Collection[str]) -> None:
        kind, options, addresses, way = _how(base_url, allowed)
        pool = {"http": httpcore.HTTPProxy, "socks": httpcore.SOCKSProxy}.get(
            kind, httpcore.ConnectionPool
        )
        self._pool = pool(network_backend=Network(addresses, way), **options)


class AsyncTransport(httpx.AsyncHTTPTransport):
    """The same for async code."""

    def __init__(self, base_url: str, allowed: Collection[str]) -> None:
        kind, options, addresses, way = _how(base_url, allowed)
        pool = {"http": httpcore.AsyncHTTPProxy, "socks": httpcore.AsyncSOCKSProxy}.get(
            kind, httpcore.AsyncConnectionPool
        )
        self._pool = pool(network_backend=AsyncNetwork(addresses, way), **options)


def _how(base_url: str, allowed: Collection[str]) -> tuple[str, dict[str, Any], Addresses, Way]:
    """Through which kind of proxy the API is asked, if any, and with what options."""
    options: dict[str, Any] = {
        "ssl_context": tls(),
        "max_connections": None,
        "max_keepalive_connections": 0,
    }
    parts = urlsplit(base_url)
    in_clear = parts.scheme == "http"
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    # A proxy would read what is sent in clear, the key included.
    if in_clear or not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return "", options, Addresses(in_clear, allowed), (0, False)
    try:
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        urlsplit(proxy)  # finds more mistakes than httpx
        given = httpx.Proxy(proxy)
    except (ValueError, httpx.InvalidURL):  # its address may hold a password
        raise InvalidInput(
            "HTTPS_PROXY or ALL_PROXY: the API cannot be reached through that proxy: give the address "
            "of an HTTP proxy, as http://host:3128, special characters of its password percent-encoded"
        ) from None
    kind = "socks" if given.url.scheme.startswith("socks") else "http"
    options |= {"proxy_url": str(given.url), "proxy_auth": given.raw_auth}
    if given.url.scheme == "https":
        options["proxy_ssl_context"] = tls()
    way = (2 if given.url.scheme == "https" else 1, kind == "http")
    return kind, options, Addresses(), way
