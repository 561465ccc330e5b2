"""Reading a stream of server-sent events: bytes in, events out. No I/O here.

httpx-sse was looked at and not taken: it puts no bound on a line, and the key must be taken out of an
event before anything looks at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect_nanobanana.client._payload import parse
from prefect_nanobanana.client._secrets import Secrets

MAX_EVENT_BYTES = 256 * 1024 * 1024
"""An event may hold images as `data:` URLs; more than this is none."""


class EventReader:
    """Puts events together, however the network has split them.

    Comments, heartbeats and anything that is no JSON object are passed over.

    Args:
        secrets: Are taken out of everything that is read.
        max_bytes: A larger event is dropped.
    """

    def __init__(self, secrets: Secrets | None = None, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._secrets = secrets or Secrets()
        self._max_bytes = max_bytes
        self._line: list[bytes] = []
        """The pieces of a line that has not ended yet."""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """Take in what has arrived.

        Args:
            chunk: Any number of bytes; empty at the stream's end, which also ends an event.

        Yields:
            The events that are whole now.
        """
        # Lines end in LF, CRLF or CR. A CR at the end of a chunk may be half of a CRLF.
        half = bool(self._line) and self._line[-1].endswith(b"\r")
        self._size += len(chunk)
        self._line.append(chunk)
        if self._size > self._max_bytes:
            self._line, self._data, self._size = [], [], 0
        if chunk and not half and b"\n" not in chunk and b"\r" not in chunk:
            return  # joining the pieces each time would take time that grows with the square
        text = b"".join(self._line)
        whole = text[:-1] if text.endswith(b"\r") and chunk else text
        lines = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._line = [lines.pop() + text[len(whole) :]]
        if not chunk:
            lines += [*self._line, b""]
            self._line = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line:
                event = self._event()
                if event is not None:
                    yield event

    def _event(self) -> dict[str, Any] | None:
        body = b"\n".join(self._data)
        self._data, self._size = [], 0
        body = self._secrets.removed_from(body)
        try:
            event = parse(body)
        except ValueError:
            return None
        return event if isinstance(event, dict) else None
