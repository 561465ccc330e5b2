"""Taking in an answer's body within bounds, however it was packed. No I/O here."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from prefect_nanobanana.client._payload import Answer, kept
from prefect_nanobanana.client._secrets import Secrets
from prefect_nanobanana.client._streams import EventStream
from prefect_nanobanana.errors import AnswerNotUnderstood, UnknownOutcome

_PIECE = 64 * 1024
_PACKED = ("gzip", "x-gzip", "deflate")
_MOST_LAYERS = 4
_MOST_MEMBERS = 1000
_GZIP = b"\x1f\x8b"
_EITHER = 32 + zlib.MAX_WBITS
"""gzip or zlib, whichever it is."""


class _Layer:
    """Unpacks gzip, of several members too, or zlib; hands on what is neither, whatever it is called."""

    def __init__(self) -> None:
        self._start = b""
        self._unpacker: Any = None
        self._members = 0

    def unpacked(self, data: bytes) -> Iterator[bytes]:
        """Unpack what has come.

        Raises:
            zlib.error: If it cannot be unpacked.
        """
        if self._members == 0:
            self._start += data
            if len(self._start) < len(_GZIP):  # what it is cannot be seen yet
                return
            data, self._start, self._members = self._start, b"", 1
            if _is_packed(data):
                self._unpacker = zlib.decompressobj(_EITHER)
        if self._unpacker is None:
            yield data
            return
        while data:
            if self._unpacker.eof:
                if self._members > _MOST_MEMBERS or not data.startswith(_GZIP[:1]):
                    return  # bytes behind the end
                self._unpacker = zlib.decompressobj(_EITHER)
                self._members += 1
            piece = self._unpacker.decompress(data, _PIECE)
            data = self._unpacker.unused_data or self._unpacker.unconsumed_tail
            if piece:
                yield piece

    def rest(self) -> bytes:
        """What has come, if it was too short to see what it is."""
        rest, self._start = self._start, b""
        return rest


def _is_packed(data: bytes) -> bool:
    return data.startswith(_GZIP) or (data[0] & 15 == 8 and (data[0] * 256 + data[1]) % 31 == 0)


class Receiver:
    """Puts an answer together.

    httpx would unpack each piece whole, and a few kB can become gigabytes: here the bound counts what
    comes out, of each layer, as it comes.

    Args:
        status: The HTTP status.
        headers: With names in lower case.
        base_url: Who was asked.
        max_bytes: More than this is no answer.
        secrets: Are taken out of headers and body.
        stream: Takes the body as it arrives, if it is the event stream that was asked for.

    Attributes:
        status: The HTTP status.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        *,
        base_url: str,
        max_bytes: int,
        secrets: Secrets,
        stream: EventStream | None = None,
    ) -> None:
        self.status = status
        self._headers = {name: secrets.removed_from_text(value) for name, value in headers.items()}
        self._base_url = base_url
        self._max_bytes = max_bytes
        self._secrets = secrets
        is_events = headers.get("content-type", "").lower().startswith("text/event-stream")
        self._stream = stream if 200 <= status < 300 and is_events else None
        self._content = bytearray()
        self._size = 0
        named = [name.strip().lower() for name in headers.get("content-encoding", "").split(",")]
        packed = [name for name in named if name in _PACKED]
        # A name that is no compression, as `aws-chunked`: the body is what it is.
        self._layers = [_Layer() for _ in packed[:_MOST_LAYERS]]

    def feed(self, chunk: bytes) -> bool:
        """Take in what has arrived.

        Returns:
            Whether the rest does not matter any more.

        Raises:
            UnknownOutcome: If there is more than an answer has, or if it cannot be unpacked.
        """
        for piece in self._unpacked(chunk, 0):
            if self._stream is None:
                self._content += piece
            else:
                self._stream.feed(piece)
                if self._stream.last is not None:
                    return True  # the server was to hang up after the last event; many go on talking
        return False

    def answer(self) -> Answer:
        """What has arrived, without the key."""
        with suppress(UnknownOutcome):
            self._content += b"".join(self._rest(0))
        return Answer(self.status, self._headers, self._without_key(), self._base_url)

    def kept(self) -> str | None:
        """What is kept of an answer that broke off."""
        return kept(self._without_key())

    def _without_key(self) -> bytes:
        # Should a server send the key back, it goes no further than this: not into a message either.
        return self._secrets.removed_from(bytes(self._content))

    def _rest(self, layer: int) -> Iterator[bytes]:
        """What the layers hold back of a body of a few bytes."""
        if layer < len(self._layers):
            yield from self._unpacked(self._layers[layer].rest(), layer + 1)
            yield from self._rest(layer + 1)

    def _unpacked(self, data: bytes, layer: int) -> Iterator[bytes]:
        self._size += len(data)
        if self._size > self._max_bytes:
            raise UnknownOutcome(
                f"the answer is larger than {self._max_bytes} bytes",
                status_code=self.status,
                body_excerpt=self.kept(),
            )
        if layer == len(self._layers):
            yield data
            return
        try:
            for piece in self._layers[layer].unpacked(data):
                yield from self._unpacked(piece, layer + 1)
        except zlib.error:
            raise AnswerNotUnderstood(
                "the answer cannot be unpacked",
                status_code=self.status,
                body_excerpt=self.kept(),
            ) from None
