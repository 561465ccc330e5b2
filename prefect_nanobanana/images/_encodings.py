"""What a body is after its `Content-Encoding`: bounded in bytes at each step."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator

from prefect_nanobanana.images._kinds import HEAD_BYTES, kind_of

MAX_LAYERS = 4
_PIECE_BYTES = 1024 * 1024
_FED_BYTES = 64 * 1024
_MOST_MEMBERS = 10_000
"""Of gzip: each costs time, and may hold nothing."""
_EITHER = 32 + zlib.MAX_WBITS
"""gzip or zlib, whichever it is."""
_BARE = -zlib.MAX_WBITS
"""What some servers send as `deflate`: the same without a header."""
_GZIP = b"\x1f\x8b"
_COMPRESSIONS = {"gzip", "x-gzip", "deflate"}


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
    parts = (part.partition(";")[0].strip(' "').lower() for part in encoding.split(","))
    named = [name for name in parts if name in _COMPRESSIONS]
    if len(named) > MAX_LAYERS:
        raise TooLarge
    pieces = _bounded(pieces, most)
    for name in reversed(named):
        first = next(pieces, b"")
        pieces = itertools.chain([first], pieces)
        bits = _window_bits(name, first)
        if bits is not None:
            pieces = _bounded(_inflated(pieces, bits), most)
    return pieces


def _window_bits(name: str, first: bytes) -> int | None:
    """How a body can be decompressed, whichever compression a header names; None if not at all."""
    zlib_header = len(first) > 1 and first[0] & 0x8F == 8 and int.from_bytes(first[:2], "big") % 31 == 0
    if first.startswith(_GZIP) or zlib_header:
        return _EITHER
    if name != "deflate" or kind_of(first[:HEAD_BYTES]) is not None:
        return None
    try:
        found = zlib.decompressobj(_BARE).decompress(first, HEAD_BYTES)
    except zlib.error:
        return None
    return _BARE if found else None


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


def _inflated(pieces: Iterator[bytes], bits: int) -> Iterator[bytes]:
    inflater, members = zlib.decompressobj(bits), 1
    try:
        for data in _small(pieces):
            while data:
                if inflater.eof:
                    members += 1
                    if members > _MOST_MEMBERS:
                        raise CutShort
                    if not data.startswith(_GZIP):
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
