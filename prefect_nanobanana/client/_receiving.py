"""Taking in an answer's body within bounds, however it was packed. No I/O here."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

from prefect_nanobanana.client._payload import Answer, kept
from prefect_nanobanana.client._streams import EventStream
from prefect_nanobanana.errors import AnswerNotUnderstood, UnknownOutcome

_PIECE = 64 * 1024
_PACKED = ("gzip", "x-gzip", "deflate")
_MOST_LAYERS = 4


class Receiver:
    """Puts an answer together.

    httpx would unpack each piece whole, and a few kB can become gigabytes: here the bound counts what
    comes out, of each layer, as it comes.

    Args:
        status: The HTTP status.
        headers: With names in lower case.
        base_url: Who was asked.
        max_bytes: More than this is no answer.
        secret: Is taken out of headers and body.
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
        secret: str,
        stream: EventStream | None = None,
    ) -> None:
        self.status = status
        self._headers = {name: value.replace(secret, "[key]") for name, value in headers.items()}
        self._base_url = base_url
        self._max_bytes = max_bytes
        self._secret = secret.encode()
        is_events = headers.get("content-type", "").lower().startswith("text/event-stream")
        self._stream = stream if 200 <= status < 300 and is_events else None
        self._content = bytearray()
        self._size = 0
        named = [name.strip().lower() for name in headers.get("content-encoding", "").split(",")]
        packed = [name for name in named if name in _PACKED]
        # A name that is no compression, as `aws-chunked`: the body is what it is.
        self._layers = [zlib.decompressobj(47) for _ in packed[:_MOST_LAYERS]]

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
        return Answer(self.status, self._headers, self._without_key(), self._base_url)

    def kept(self) -> str | None:
        """What is kept of an answer that broke off."""
        return kept(self._without_key())

    def _without_key(self) -> bytes:
        # Should a server send the key back, it goes no further than this: not into a message either.
        return bytes(self._content).replace(self._secret, b"[key]")

    def _unpacked(self, data: bytes, layer: int) -> Iterator[bytes]:
        first = self._size == 0
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
        while data:
            try:
                piece = self._layers[layer].decompress(data, _PIECE)
            except zlib.error:
                if first:  # it says that it is packed, and is not
                    self._layers = []
                    yield data
                    return
                raise AnswerNotUnderstood(
                    "the answer cannot be unpacked",
                    status_code=self.status,
                    body_excerpt=self.kept(),
                ) from None
            data = self._layers[layer].unconsumed_tail
            if piece:
                yield from self._unpacked(piece, layer + 1)
            elif not data:
                return
