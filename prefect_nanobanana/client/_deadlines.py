"""Streams with one deadline for all that happens on them, and the way through a proxy before it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpcore

_PIECE = 64 * 1024
_LOST = {
    httpcore.ReadTimeout: httpcore.ConnectTimeout,
    httpcore.WriteTimeout: httpcore.ConnectTimeout,
    httpcore.ReadError: httpcore.ConnectError,
    httpcore.WriteError: httpcore.ConnectError,
}


class Clock:
    """The time that is left of a connection's; to a proxy, that of the way to the API first.

    Args:
        handshakes: How many there are before the API itself is spoken with, where a proxy is between.
        speaks_http: Whether the proxy is to answer in HTTP before the last of them.
        connect_timeout: For all of them.
    """

    def __init__(self, handshakes: int, speaks_http: bool, connect_timeout: float | None = None) -> None:
        self._started = time.monotonic()
        self._handshakes = handshakes
        self._answer_before = speaks_http
        self._connect_timeout = connect_timeout

    def shaken(self) -> None:
        """One handshake is done."""
        self._handshakes -= 1

    @contextmanager
    def meaning(self) -> Iterator[None]:
        """Take what fails on the way to the API for what it is: nothing has been delivered yet."""
        try:
            yield
        except tuple(_LOST) as error:
            if self._handshakes > 0:
                raise _LOST[type(error)](str(error)) from None
            raise

    def heard(self, data: bytes) -> bytes:
        """What was read; on the way to the API, it is no answer of the API's."""
        if self._handshakes > 0 and not data:
            raise httpcore.ConnectError("the proxy hung up")
        if self._answer_before and self._handshakes == 1 and not b"HTTP/".startswith(data[:5]):
            raise httpcore.ConnectError("the proxy speaks no HTTP")
        if self._handshakes == 1:
            self._answer_before = False
        return data

    def left(self, timeout: float | None, error: type[Exception]) -> float | None:
        """How long to wait for the next byte, where the whole may take so long."""
        if timeout is None:
            return None
        if self._handshakes > 0 and self._connect_timeout is not None:
            timeout = min(timeout, self._connect_timeout)
        left = self._started + timeout - time.monotonic()
        if left <= 0:  # who never pauses meets no socket's time-out, however short
            raise error("timed out")
        return left


class Stream(httpcore.NetworkStream):
    """A connection of plain code, read and written by its clock."""

    def __init__(self, stream: httpcore.NetworkStream, clock: Clock) -> None:
        self._stream, self._clock = stream, clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with self._clock.meaning():
            left = self._clock.left(timeout, httpcore.ReadTimeout)
            return self._clock.heard(self._stream.read(max_bytes, left))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            with self._clock.meaning():
                left = self._clock.left(timeout, httpcore.WriteTimeout)
                self._stream.write(buffer[start : start + _PIECE], left)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._clock.left(timeout, httpcore.ConnectTimeout)
        stream = self._stream.start_tls(ssl_context, server_hostname, left)
        self._clock.shaken()
        return Stream(stream, self._clock)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class AsyncStream(httpcore.AsyncNetworkStream):
    """The same for async code."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, clock: Clock) -> None:
        self._stream, self._clock = stream, clock

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with self._clock.meaning():
            left = self._clock.left(timeout, httpcore.ReadTimeout)
            return self._clock.heard(await self._stream.read(max_bytes, left))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with self._clock.meaning():
            await self._stream.write(buffer, self._clock.left(timeout, httpcore.WriteTimeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        left = self._clock.left(timeout, httpcore.ConnectTimeout)
        stream = await self._stream.start_tls(ssl_context, server_hostname, left)
        self._clock.shaken()
        return AsyncStream(stream, self._clock)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
