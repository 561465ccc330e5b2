"""Pictures as phones, cameras and tools write them, made by code; and media that cannot be checked."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

ORIENTATION = 0x0112


def picture(
    kind: str = "PNG", size: tuple[int, int] = (96, 64), mode: str = "RGB", **options: Any
) -> bytes:
    """A picture with something in it."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(out, kind, **options)
    return out.getvalue()


def turned(kind: str, orientation: int) -> bytes:
    """A picture with a note on how the camera was held."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return picture(kind, exif=exif.tobytes())


def chunk(name: bytes, body: bytes, checksum: int | None = None) -> bytes:
    """A chunk of a PNG."""
    crc = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)


def with_chunk(png: bytes, extra: bytes, before: bytes = b"IDAT") -> bytes:
    """A PNG with one more chunk."""
    at = png.index(before) - 4
    return png[:at] + extra + png[at:]


def damaged(png: bytes, name: bytes) -> bytes:
    """A PNG with another byte in a chunk, first in its body."""
    at = png.index(name) + 4
    return png[:at] + bytes([png[at] ^ 1]) + png[at + 1 :]


PASSES = (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)


def interlaced() -> bytes:
    """A grey PNG in seven passes, which Pillow reads and does not write."""
    rows = [
        b"\0" + bytes((x + y) % 256 for x in range(left, 96, across))
        for left, top, across, down in PASSES
        for y in range(top, 64, down)
    ]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 96, 64, 8, 0, 0, 0, 1))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b"")


def animated() -> bytes:
    """An APNG of two pictures."""
    out = io.BytesIO()
    first, second = (Image.new("RGB", (96, 64), colour) for colour in ("red", "blue"))
    first.save(out, "PNG", save_all=True, append_images=[second])
    return out.getvalue()


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment, first of all."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + jpeg[2:]


def outer_length(webp: bytes, more: int) -> bytes:
    """A WebP that is wrong about its length."""
    (told,) = struct.unpack_from("<I", webp, 4)
    return webp[:4] + struct.pack("<I", told + more) + webp[8:]


def box(name: bytes, body: bytes) -> bytes:
    """A box, as films, HEIC and AVIF are made of."""
    return struct.pack(">I4s", len(body) + 8, name) + body


def film(brand: bytes = b"isom") -> bytes:
    """What begins and ends as a film or a HEIC does."""
    return box(b"ftyp", brand + bytes(4) + brand) + box(b"moov", bytes(900)) + box(b"mdat", bytes(9000))


def mdat_length(avif: bytes, more: int) -> bytes:
    """An AVIF whose pixels' box is wrong about its length."""
    at = avif.index(b"mdat") - 4
    (told,) = struct.unpack_from(">I", avif, at)
    return avif[:at] + struct.pack(">I", told + more) + avif[at + 4 :]
