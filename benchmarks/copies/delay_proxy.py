"""Adds a wait to every answer of a server on this machine, as a network between them would.

    python delay_proxy.py SECONDS PORT

It prints the port that it listens on. What passes is moved inside the kernel (splice), by threads that
Python's lock does not hold up, so that the wait is what it costs. Linux only.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

HOST = "127.0.0.1"
PIPE_BYTES = 1024 * 1024


class Conversation:
    """One connection. An answer's first bytes wait, and the rest follows at once.

    An answer begins where the server speaks after the client has. So `100 Continue` is one, too: it
    takes a round trip across a network.
    """

    def __init__(self, client: socket.socket, port: int, seconds: float) -> None:
        self._client = client
        self._server = socket.create_connection((HOST, port))
        self._seconds = seconds
        self._asked = False
        for side in (self._client, self._server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self) -> None:
        """Pass on what both sides say, until one of them hangs up."""
        asking = threading.Thread(target=_pass_on, args=(self._client, self._server, self._ask))
        asking.start()
        _pass_on(self._server, self._client, self._answer)
        asking.join()
        self._client.close()
        self._server.close()

    def _ask(self) -> None:
        self._asked = True

    def _answer(self) -> None:
        if self._asked:
            self._asked = False
            time.sleep(self._seconds)


def _pass_on(source: socket.socket, target: socket.socket, before: Callable[[], None]) -> None:
    """Pass on what one side says, after a call for each part of it."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    with suppress(OSError):
        while left := os.splice(source.fileno(), into, PIPE_BYTES):
            before()
            while left:
                left -= os.splice(out, target.fileno(), left)
    for side in (source, target):
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
    os.close(out)
    os.close(into)


def main() -> None:
    """Serve until the process is ended."""
    seconds, port = float(sys.argv[1]), int(sys.argv[2])
    with socket.create_server((HOST, 0), backlog=128) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            client, _ = listening.accept()
            threading.Thread(target=Conversation(client, port, seconds).run, daemon=True).start()


if __name__ == "__main__":
    main()
