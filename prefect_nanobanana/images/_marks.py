"""What a picture's file says of where it comes from: C2PA's manifest, and IPTC's digital source type.

The file stays as it was served; this only reads. Google's SynthID is in the pixels, and only its maker's
detector finds it: nothing is said of that.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from prefect_nanobanana.images import _kinds
from prefect_nanobanana.images._kinds import Kind

_MOST_PARTS = 10_000
_MOST_XMP_BYTES = 1_000_000
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_SOURCE_TYPE = re.compile(rb"DigitalSourceType[^A-Za-z]{1,40}(?:[a-z:/.]*/)?([A-Za-z]{3,60})\b")
"""An attribute or an element of XMP, whose value is a term, or an address that ends in one."""
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
"""Of the box in AVIF and its kin (C2PA's specification)."""


def marks_of(kind: Kind, data: memoryview) -> tuple[str, ...]:
    """Say what marks a picture's file bears.

    Args:
        kind: What kind of picture it is.
        data: All of it.

    Returns:
        `c2pa` if there is a C2PA manifest, which is not checked, and `iptc:` with IPTC's digital source
        type, as `iptc:trainedAlgorithmicMedia`; sorted. Broken parts are passed over.
    """
    found: set[str] = set()
    try:
        for name, body in _parts(kind, data):
            if name == "c2pa":
                found.add("c2pa")
            elif match := _SOURCE_TYPE.search(bytes(body[:_MOST_XMP_BYTES])):
                found.add(f"iptc:{match[1].decode()}")
    except (struct.error, IndexError):
        pass
    return tuple(sorted(found))


def _parts(kind: Kind, data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """The parts that may bear marks: `c2pa` or `xmp`, and what is in them."""
    if kind == _kinds.JPEG:
        return _jpeg(data)
    if kind == _kinds.PNG:
        return _chunks(data, 8, ">", {b"caBX": "c2pa", b"iTXt": "xmp"})
    if kind == _kinds.WEBP:
        return _chunks(data, 12, "<", {b"C2PA": "c2pa", b"XMP ": "xmp"})
    return _boxes(data)


def _jpeg(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    at = 2
    for _ in range(_MOST_PARTS):
        while data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1
        marker, length = struct.unpack_from(">HH", data, at)
        if marker >> 8 != 0xFF or marker in (0xFFDA, 0xFFD9):
            return
        body = data[at + 4 : at + 2 + length]
        if (
            marker == 0xFFEB
            and bytes(body[:2]) == b"JP"
            and b"jumb" in bytes(body[:64])
            and b"c2pa" in bytes(body[:128])
        ):
            yield "c2pa", body
        if marker == 0xFFE1 and bytes(body[: len(_XMP)]) == _XMP:
            yield "xmp", body
        at += 2 + length


def _chunks(
    data: memoryview, at: int, order: str, wanted: dict[bytes, str]
) -> Iterator[tuple[str, memoryview]]:
    """The chunks of a PNG (length first, a checksum last) or a WebP (name first, even lengths)."""
    is_png = order == ">"
    for _ in range(_MOST_PARTS):
        if is_png:
            length, name = struct.unpack_from(">I4s", data, at)
        else:
            name, length = struct.unpack_from("<4sI", data, at)
        if kind := wanted.get(name):
            yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length if is_png else 8 + length + length % 2


def _boxes(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    at = 0
    for _ in range(_MOST_PARTS):
        length, name = struct.unpack_from(">I4s", data, at)
        begin = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, begin)
            begin += 8
        body = data[begin : at + length if length else len(data)]
        if name == b"uuid" and bytes(body[:16]) == _C2PA_UUID:
            yield "c2pa", body
        if name == b"uuid" and b"xmp" in bytes(body[:4096]):
            yield "xmp", body
        if not length:
            return
        at += max(8, length)
