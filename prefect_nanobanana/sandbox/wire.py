"""Answers as they go onto the wire: whole, cut in the middle, or a reset connection."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
"""What a proxy answers."""


class WireHandler(BaseHTTPRequestHandler):
    """A request handler that can answer well, or break the connection on purpose."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def answer(
        self,
        status: int,
        body: Any,
        *,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        cut: bool = False,
    ) -> None:
        """Send an answer: bytes as they are, anything else as JSON; `cut` leaves half of it out."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        if content_type is None:
            content_type = "text/html" if raw is HTML else "application/json"
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(raw)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if cut else raw)
        if cut:
            self.close_connection = True

    def wait_until_closed(self, stopping: threading.Event) -> None:
        """Say nothing more until the client hangs up, or the server is stopped."""
        while not stopping.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.05)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return

    def reset(self) -> None:
        """Close the connection with a reset rather than an orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
