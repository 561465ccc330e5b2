"""Connections that go where they may, and take as long as they may.

Each name is resolved once per connection, all its addresses are checked, and the connection goes to the
address that was checked: a name that resolves to something else a moment later changes nothing.

This is urllib3 and not httpx: it reads a body straight into what is handed on, where httpx copies each
byte three times on the way, and an image costs half the CPU time.
"""

from __future__ import annotations

import functools
import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from prefect_nanobanana._common.tls import tls
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.images._addresses import Addresses

Connect = Callable[[tuple[str, int], float | None], socket.socket]
"""As `socket.create_connection`: takes an address and a time-out in seconds."""

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
"""Without a byte."""
_HOSTS = 16
"""Connections stay open to so many hosts."""
_until = threading.local()


def _not_of_images(_: logging.LogRecord) -> bool:
    return getattr(_until, "time", None) is None


for _name in ("urllib3.connection", "urllib3.connectionpool"):
    # They name whole URLs, and those of images may hold a signature.
    logging.getLogger(_name).addFilter(_not_of_images)


class NotConnected(HTTPError):
    """There is no connection to a host."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let what this thread does on an `ImageNetwork` time out after so many seconds in all.

    Other time-outs start anew with each byte, so that a host that sends one now and then, be it of
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


class _TimedReader(io.RawIOBase):
    """What a socket receives, by the thread's deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._timeout = sock, sock.gettimeout()
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        until = getattr(_until, "time", None)
        if until is not None and time.monotonic() > until:
            raise TimeoutError  # who never pauses meets no socket's time-out, however short
        self._socket.settimeout(_left(self._timeout))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedSocket:
    """A connection's socket, read through a `_TimedReader`."""

    def __init__(self, sock: Any) -> None:
        self._socket = sock

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._socket))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class _Timed(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock: Any = _TimedSocket(self.sock)


class _TimedTLS(_Timed, HTTPSConnection):
    pass


class _Checked(_Timed):
    """Connects to addresses that were checked, and to nothing else."""

    def __init__(self, *args: Any, addresses: Addresses, connect: Connect, **options: Any) -> None:
        super().__init__(*args, **options)
        self._addresses, self._connect_to = addresses, connect

    def _new_conn(self) -> socket.socket:
        try:
            found = self._addresses.of(self.host, self.port)
        except (OSError, UnicodeError) as error:
            raise NotConnected(f"{self.host} cannot be resolved: {error}") from None
        failure = f"{self.host} has no address"
        for address in found:
            try:
                return self._connect_to((address, self.port), _left(CONNECT_SECONDS))
            except OSError as error:
                failure = str(error)
        raise NotConnected(failure)


class _CheckedTLS(_Checked, HTTPSConnection):
    """The same with TLS, which is spoken with whom the URL names."""


def _pools(manager: urllib3.PoolManager, plain: type, tls: type, **options: Any) -> None:
    """Let a manager make its connections as these classes, with these options."""

    def of(pool: type, connection: type) -> Any:
        return functools.partial(type("Pool", (pool,), {"ConnectionCls": connection}), **options)

    manager.pool_classes_by_scheme = {
        "http": of(urllib3.HTTPConnectionPool, plain),
        "https": of(urllib3.HTTPSConnectionPool, tls),
    }


class ImageNetwork:
    """Asks for images, through the environment's proxy where there is one.

    A proxy resolves names itself: behind one, only addresses that are written as such are checked here,
    and what its names may lead to is up to the proxy.

    Args:
        addresses: Where it may connect to.
        connections: How many connections to a host stay open for the next image; there may be more at
            once.
        connect: Makes the connections.

    Raises:
        TypeError: If urllib3 has changed so that nothing would be checked.
        InvalidInput: If the environment names a proxy of another kind.
    """

    def __init__(
        self, addresses: Addresses, connections: int, connect: Connect = socket.create_connection
    ) -> None:
        if not hasattr(HTTPConnection, "_new_conn"):
            raise TypeError("this version of urllib3 is not known: its connections are made elsewhere")
        self._addresses = addresses
        options: dict[str, Any] = {"maxsize": connections, "ssl_context": tls()}
        self._direct = urllib3.PoolManager(_HOSTS, **options)
        _pools(self._direct, _Checked, _CheckedTLS, addresses=addresses, connect=connect)
        self._proxied = {}
        proxies = getproxies()
        for scheme in ("http", "https"):
            if proxy := proxies.get(scheme) or proxies.get("all"):
                try:
                    self._proxied[scheme] = _proxy(proxy, **options)
                except (HTTPError, ValueError):  # its address may hold a password
                    raise InvalidInput(
                        f"{scheme.upper()}_PROXY or ALL_PROXY: images cannot be fetched through that "
                        "proxy: give the address of an HTTP proxy, as http://host:3128, with special "
                        "characters of its password percent-encoded"
                    ) from None
                _pools(self._proxied[scheme], _Timed, _TimedTLS)

    def get(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Ask for an image, and follow no redirect.

        Args:
            url: Where it is.
            headers: What to send; a password in the URL is not.

        Returns:
            The answer, its body still to come; for the caller to close.

        Raises:
            ImageNotCopied: If it must not be asked for.
            urllib3.exceptions.HTTPError: If there is no answer, or the URL is none.
        """
        parts = urllib3.util.parse_url(url)
        self._addresses.check(parts)
        proxied = self._proxied.get(parts.scheme or "")
        direct = proxied is None or proxy_bypass(parts.host or "")
        return (self._direct if direct or proxied is None else proxied).urlopen(
            "GET",
            parts._replace(auth=None, fragment=None).url,
            headers=headers,
            timeout=urllib3.Timeout(_left(CONNECT_SECONDS), _left(READ_SECONDS)),
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )

    def close(self) -> None:
        """Close all connections."""
        for manager in (self._direct, *self._proxied.values()):
            manager.clear()


def _proxy(url: str, **options: Any) -> urllib3.ProxyManager:
    parts = urllib3.util.parse_url(url if "://" in url else f"http://{url}")
    headers = urllib3.make_headers(proxy_basic_auth=unquote(parts.auth)) if parts.auth else None
    return urllib3.ProxyManager(parts._replace(auth=None).url, _HOSTS, proxy_headers=headers, **options)
