"""Connections that go where they may, and take as long as they may.

Each name is resolved once per connection, all its addresses are checked, and the connection goes to the
address that was checked: a name that resolves to something else a moment later changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from prefect_nanobanana._addresses import Addresses
from prefect_nanobanana._tls import tls

_PIECE_BYTES = 512 * 1024
"""Asked of a connection at once: httpcore asks for 64 KB, and many threads that take turns for so little
lose much time over it. A connection with TLS gives 16 KB at most, whatever it is asked for."""
_until = threading.local()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let whatever this thread does on a `CheckedNetwork` time out after so many seconds in all.

    Time-outs of httpx start anew with each byte, so that a host that sends one now and then, be it of
    its headers, would hold a thread for ever.
    """
    _until.time = time.monotonic() + seconds
    try:
        yield
    finally:
        del _until.time


def _left(timeout: float | None) -> float | None:
    until: float | None = getattr(_until, "time", None)
    if until is None:
        return timeout
    left = max(0.001, until - time.monotonic())
    return left if timeout is None else min(left, timeout)


class _TimedStream(httpcore.NetworkStream):
    """A stream that knows of the thread's deadline, and is read in large pieces."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max(max_bytes, _PIECE_BYTES), _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        self._stream.close()


class CheckedNetwork(httpcore.NetworkBackend):
    """Connects to addresses that were checked, and to nothing else.

    Args:
        addresses: Which those are.
        network: Makes the connections.
    """

    def __init__(self, addresses: Addresses, network: httpcore.NetworkBackend) -> None:
        self._addresses = addresses
        self._network = network

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.NetworkStream:
        try:
            found = self._addresses.of(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from None
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in found:
            try:
                stream = self._network.connect_tcp(address, port, _left(timeout), *args, **options)
                return _TimedStream(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class CheckedTransport(httpx.HTTPTransport):
    """An httpx transport over a `CheckedNetwork`.

    Args:
        addresses: Where it may connect to.
        connections: How many connections stay open for the next request; there may be more at once.
        network: Makes the connections.
    """

    def __init__(
        self, addresses: Addresses, connections: int, network: httpcore.NetworkBackend | None = None
    ) -> None:
        context = tls()
        super().__init__(verify=context)
        # httpx has no public way to a pool of one's own; were this name to change, nothing would be
        # checked.
        if not isinstance(self._pool, httpcore.ConnectionPool):
            raise TypeError("this version of httpx is not known: its transport has another pool")
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=None,
            max_keepalive_connections=connections,
            network_backend=CheckedNetwork(addresses, network or httpcore.SyncBackend()),
        )


class ImageTransport(httpx.BaseTransport):
    """Fetches images, through the environment's proxy where there is one.

    A proxy resolves names itself: behind one, only addresses that are written as such are checked here,
    and what its names may lead to is up to the proxy.

    Args:
        addresses: Where it may connect to.
        connections: See `CheckedTransport`.
        network: Likewise.
    """

    def __init__(
        self, addresses: Addresses, connections: int, network: httpcore.NetworkBackend | None = None
    ) -> None:
        self._addresses = addresses
        self._direct = CheckedTransport(addresses, connections, network)
        proxies = getproxies()
        self._proxied = {
            scheme: httpx.HTTPTransport(proxy=proxy, verify=tls())
            for scheme in ("http", "https")
            if (proxy := proxies.get(scheme) or proxies.get("all"))
        }

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request if its address allows it; see `httpx.BaseTransport`.

        Raises:
            ImageNotCopied: If it does not.
        """
        self._addresses.check(request.url)
        proxy = self._proxied.get(request.url.scheme)
        if proxy is None or proxy_bypass(request.url.host):
            return self._direct.handle_request(request)
        return proxy.handle_request(request)

    def close(self) -> None:
        """Close all connections."""
        for transport in (self._direct, *self._proxied.values()):
            transport.close()
