"""Connections that go where they may, take as long as they may, and ask to the letter.

Each name is resolved once per connection, all its addresses are checked, and the connection goes to the
address that was checked: a name that resolves to something else a moment later changes nothing.

This is urllib3 and not httpx: it reads a body straight into what is handed on, where httpx copies each
byte three times on the way, and an image costs half the CPU time.
"""

from __future__ import annotations

import functools
import http.client
import io
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from prefect_nanobanana._common.tls import tls
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.images._addresses import Addresses
from prefect_nanobanana.images._headers import HeaderLines
from prefect_nanobanana.images._urls import WebAddress

Connect = Callable[[tuple[str, int], float | None], socket.socket]
"""As `socket.create_connection`: takes an address and a time-out in seconds."""

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
"""Without a byte."""
_HOSTS = 16
"""Connections stay open to so many hosts."""
_request = threading.local()
"""What this thread asks for: until when, and the exact target."""


def _not_of_images(_: logging.LogRecord) -> bool:
    return getattr(_request, "until", None) is None


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
    _request.until = time.monotonic() + seconds
    try:
        yield
    finally:
        del _request.until


def _left(timeout: float | None) -> float | None:
    until: float | None = getattr(_request, "until", None)
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
        until = getattr(_request, "until", None)
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


class _Response(http.client.HTTPResponse):
    """Passes over answers that come before the last one, as 103, and lines that are no header."""

    def begin(self) -> None:
        super().begin()
        if isinstance(self.fp, HeaderLines):
            self.fp = self.fp.file

    def _read_status(self) -> tuple[str, int, str]:
        read: Callable[[], tuple[str, int, str]] = super()._read_status  # type: ignore[misc]
        version, status, reason = read()
        while 100 <= status < 200 and status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            http.client.parse_headers(self.fp)
            version, status, reason = read()
        self.fp: Any = HeaderLines(self.fp)
        return version, status, reason


class _Timed(HTTPConnection):
    response_class = _Response

    def connect(self) -> None:
        super().connect()
        self.sock: Any = _TimedSocket(self.sock)

    def _tunnel(self) -> None:
        sock, self.sock = self.sock, _TimedSocket(self.sock)  # a proxy may take its time, too
        try:
            super()._tunnel()
        finally:
            self.sock = sock if self.sock is not None else None

    def putrequest(self, method: str, url: str, *args: Any, **options: Any) -> None:
        """Send the address to the letter, which urllib3 has normalized, escapes in lower case first."""
        server = re.match("[a-z]+://[^/?]*", url)  # which only a proxy is told
        exact = (server[0] if server else "") + _request.target
        super().putrequest(method, exact, *args, **options)


class _TimedTLS(_Timed, HTTPSConnection):
    pass


class _Checked(_Timed):
    """Connects to addresses that were checked, and to nothing else."""

    scheme: ClassVar[str] = "http"

    def __init__(self, *args: Any, addresses: Addresses, connect: Connect, **options: Any) -> None:
        super().__init__(*args, **options)
        self._addresses, self._connect_to = addresses, connect

    def _new_conn(self) -> socket.socket:
        try:
            found = self._addresses.of(self.scheme, self.host, self.port)
        except (OSError, UnicodeError) as error:
            raise NotConnected(f"{self.host[:60]} cannot be resolved: {error}") from None
        failure = f"{self.host[:60]} has no address"
        for address in found:
            try:
                return self._connect_to((address, self.port), _left(CONNECT_SECONDS))
            except OSError as error:
                failure = str(error)
        raise NotConnected(failure)


class _CheckedTLS(_Checked, HTTPSConnection):
    """The same with TLS, which is spoken with whom the URL names."""

    scheme: ClassVar[str] = "https"


class _CheckedPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Checked


class _CheckedTLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _CheckedTLS


class _ProxiedPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Timed


class _ProxiedTLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TimedTLS


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
        checks: dict[str, Any] = {"addresses": addresses, "connect": connect}
        pools: dict[str, Any] = {
            "http": functools.partial(_CheckedPool, **checks),
            "https": functools.partial(_CheckedTLSPool, **checks),
        }
        self._direct.pool_classes_by_scheme = pools
        self._proxied = {}
        proxies = getproxies()
        for scheme in ("http", "https"):
            if proxy := proxies.get(scheme) or proxies.get("all"):
                try:
                    manager: urllib3.ProxyManager = _proxy(proxy, **options)
                except (HTTPError, ValueError):  # its address may hold a password
                    raise InvalidInput(
                        f"{scheme.upper()}_PROXY or ALL_PROXY: images cannot be fetched through that "
                        "proxy: give the address of an HTTP proxy, as http://host:3128, with special "
                        "characters of its password percent-encoded"
                    ) from None
                manager.pool_classes_by_scheme = {"http": _ProxiedPool, "https": _ProxiedTLSPool}
                self._proxied[scheme] = manager

    def get(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Ask for what is at a URL, and follow no redirect.

        Args:
            url: Where it is.
            headers: What to send; a password in the URL is not.

        Returns:
            The answer, its body still to come; for the caller to close.

        Raises:
            ImageNotCopied: If it must not be asked for.
            ValueError: If the URL is none.
            urllib3.exceptions.HTTPError: If there is no answer.
        """
        at = WebAddress.parse(url)
        manager = self._manager(at)
        self._addresses.check(at.scheme, at.host, at.port, proxied=manager is not self._direct)
        _request.target = at.target
        return manager.urlopen(
            "GET",
            at.url,
            headers=headers,
            timeout=urllib3.Timeout(_left(CONNECT_SECONDS), _left(READ_SECONDS)),
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )

    def _manager(self, at: WebAddress) -> urllib3.PoolManager:
        proxied = self._proxied.get(at.scheme)
        return self._direct if proxied is None or proxy_bypass(at.host) else proxied

    def close(self) -> None:
        """Close all connections."""
        for manager in (self._direct, *self._proxied.values()):
            manager.clear()


def _proxy(url: str, **options: Any) -> urllib3.ProxyManager:
    parts = urllib3.util.parse_url(url if "://" in url else f"http://{url}")
    headers = urllib3.make_headers(proxy_basic_auth=unquote(parts.auth)) if parts.auth else None
    return urllib3.ProxyManager(parts._replace(auth=None).url, _HOSTS, proxy_headers=headers, **options)
