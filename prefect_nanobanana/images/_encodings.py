"""What a body is after its `Content-Encoding`: bounded in bytes at each step."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator

MAX_LAYERS = 4
_PIECE_BYTES = 1024 * 1024
_FED_BYTES = 64 * 1024
_MOST_MEMBERS = 10_000
"""Of gzip: each costs time, and may hold nothing."""
_EITHER = 32 + zlib.MAX_WBITS
"""gzip or zlib, whichever it is."""
_STARTS = {"gzip": b"\x1f\x8b", "x-gzip": b"\x1f\x8b", "deflate": b"\x78"}


class TooLarge(Exception):
    """There are more bytes than were to be read."""


class CutShort(Exception):
    """Compressed bytes end before their end."""


def decoded(pieces: Iterator[bytes], encoding: str, most: int) -> Iterator[bytes]:
    """Decode a body, a piece at a time.

    A body is what its bytes are: an encoding that names no compression, as `aws-chunked` or a charset
    do, changes nothing, and neither does one that the bytes do not begin with.

    Args:
        pieces: The body.
        encoding: The header, as `gzip` or `aws-chunked,gzip`.
        most: At most so many bytes, before and after each step.

    Raises:
        TooLarge: If there are more.
        CutShort: If compressed bytes are not whole.
    """
    named = [name for name in (part.strip().lower() for part in encoding.split(",")) if name in _STARTS]
    if len(named) > MAX_LAYERS:
        raise TooLarge
    pieces = _bounded(pieces, most)
    for name in reversed(named):
        first = next(pieces, b"")
        pieces = itertools.chain([first], pieces)
        if first.startswith(_STARTS[name]):
            pieces = _bounded(_inflated(pieces), most)
    return pieces


def _bounded(pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > most:
            raise TooLarge
        if piece:
            yield piece


def _small(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Small pieces: what is left of one is copied for each member that ends in it."""
    for piece in pieces:
        for start in range(0, len(piece), _FED_BYTES):
            yield piece[start : start + _FED_BYTES]


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    inflater, members = zlib.decompressobj(_EITHER), 1
    try:
        for data in _small(pieces):
            while data:
                if inflater.eof:
                    members += 1
                    if members > _MOST_MEMBERS:
                        raise CutShort
                    if not data.startswith(_STARTS["gzip"]):
                        return  # bytes behind the end
                    inflater = zlib.decompressobj(_EITHER)
                yield inflater.decompress(data, _PIECE_BYTES)
                data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        while not inflater.eof and (rest := inflater.decompress(b"", _PIECE_BYTES)):
            yield rest
    except zlib.error:
        raise CutShort from None
    if not inflater.eof:
        raise CutShort
