"""Pictures to copy: real PNGs of a wanted size, each with bytes of its own."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

SIDES = {1.5: (1024, 8), 20.0: (4200, 5)}
"""By megabytes: pixels a side, as pictures of that size have, and the shades of the noise on them."""
WARM_UP = "warm"
"""The name of the picture that a run copies before it is measured."""
_END = b"IEND"


def make(folder: Path, megabytes: float, count: int) -> None:
    """Write pictures named `0000.png` and so on, and one to warm up with.

    They differ in a text that each carries: to draw 500 pictures of noise would take minutes.
    """
    folder.mkdir(parents=True)
    whole = _noise(*SIDES[megabytes])
    for name in [WARM_UP, *names(count)]:
        (folder / f"{name}.png").write_bytes(_with_text(whole, f"Title\0{name}".encode()))


def names(count: int) -> Iterator[str]:
    """The pictures' names, without extension."""
    return (f"{number:04}" for number in range(count))


def _noise(side: int, shades: int) -> bytes:
    table = bytes(value * shades // 256 * (255 // shades) for value in range(256))
    pixels = os.urandom(side * side * 3).translate(table)
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(out, "PNG", compress_type=zlib.Z_HUFFMAN_ONLY)
    return out.getvalue()


def _with_text(png: bytes, text: bytes) -> bytes:
    end = len(png) - 12  # the length, name and checksum of the empty chunk that ends a PNG
    assert png[end + 4 : end + 8] == _END
    chunk = b"tEXt" + text
    return b"".join(
        [
            png[:end],
            struct.pack(">I", len(text)),
            chunk,
            struct.pack(">I", zlib.crc32(chunk)),
            png[end:],
        ]
    )
