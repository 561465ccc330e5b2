"""A server that says exactly the bytes that a test wants, where http.server would not let it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self


class RawServer:
    """Answers each connection's first request as a function says. Use it as a context manager.

    Args:
        say: Is given the connection, once the request's headers have come.
        address: A loopback address to listen at.
    """

    def __init__(self, say: Callable[[socket.socket], None], address: str = "127.0.0.1") -> None:
        self._say = say
        self._socket = socket.create_server((address, 0), backlog=64)
        self.requests: list[bytes] = []
        self.connections = 0
        self.gone = threading.Event()
        """Set when a client has hung up while something was still said."""

    @property
    def url(self) -> str:
        """Its address."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        request = b""
        with connection, contextlib.suppress(OSError):
            while b"\r\n\r\n" not in request:
                piece = connection.recv(65536)
                if not piece:
                    return
                request += piece
            self.requests.append(request)
            try:
                self._say(connection)
            except OSError:
                self.gone.set()
                raise

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._socket.close()
