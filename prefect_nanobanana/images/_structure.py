"""Where a picture ends, and which of its parts carry pixels, by the structure of its format.

Other parts, such as text, colour profiles and what follows the end, are let be: browsers do the same.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from prefect_nanobanana.images import _kinds
from prefect_nanobanana.images._kinds import Kind


class NotAPicture(Exception):
    """The bytes are no whole picture; the message says why."""


@dataclass
class Structure:
    """What a picture is made of.

    Attributes:
        parts: What a decoder needs, in this order.
        width: In pixels; 0 if only a decoder knows it.
        height: The same.
        exif: What its camera or editor noted, if it did.
        pixels: The compressed pixels of a PNG.
    """

    parts: list[bytes | memoryview] = field(default_factory=list)
    width: int = 0
    height: int = 0
    exif: bytes = b""
    pixels: list[memoryview] = field(default_factory=list)


CUT_SHORT = "the picture is cut short"
_LITTLE = 16
"""A container may be wrong about its own length by so many bytes."""


def read_structure(kind: Kind, data: memoryview) -> Structure:
    """Find a picture's parts.

    Raises:
        NotAPicture: If it ends before its end.
    """
    try:
        if kind == _kinds.PNG:
            return _png(data)
        if kind == _kinds.JPEG:
            return _jpeg(data)
        if kind == _kinds.GIF:
            return _gif(data)
        if kind == _kinds.WEBP:
            return _webp(data)
        if kind == _kinds.BMP:
            return Structure([data])
        return _boxes(data) if bytes(data[4:8]) in (b"ftyp", b"JXL ", b"jP  ") else Structure([data])
    except (struct.error, IndexError):
        raise NotAPicture(CUT_SHORT) from None


def _png(data: memoryview) -> Structure:
    found, at = Structure([data[:8]]), 8
    while True:
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise NotAPicture(CUT_SHORT)
        chunk, body = data[at:end], data[at + 8 : end - 4]
        at = end
        intact = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if name == b"IEND":
            found.parts.append(b"\0\0\0\0IEND\xaeB`\x82")
            return found
        if name in (b"IHDR", b"PLTE", b"IDAT") and not intact:
            raise NotAPicture(f"the picture is broken (the checksum of {name.decode()} is wrong)")
        if name == b"IHDR":
            found.width, found.height = struct.unpack_from(">II", body)
        elif name == b"IDAT":
            found.pixels.append(body)
        elif name == b"eXIf" and intact:
            found.exif = bytes(body)
        if name in (b"IHDR", b"PLTE", b"IDAT") or (name == b"tRNS" and intact):
            found.parts.append(chunk)


_SEGMENT = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_AFTER_PIXELS = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_NEEDED = {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xEE} | _SIZES
"""Tables, sizes, and how Adobe says what the colours are."""


def _jpeg(data: memoryview) -> Structure:
    found, at, pattern = Structure([data[:2]]), 2, _SEGMENT
    scan = None  # where the pixels begin that are read now
    while marker := pattern.search(data, at):
        name, start = marker[1][0], marker.end() - 2
        if scan is not None:
            found.parts.append(data[scan:start])
            scan, pattern = None, _SEGMENT
        at = marker.end()
        if name == 0xD9:
            found.parts.append(b"\xff\xd9")
            return found
        if name == 0x01 or 0xD0 <= name <= 0xD8:
            continue  # these have no length
        (length,) = struct.unpack_from(">H", data, at)
        body = data[at + 2 : at + length]
        if at + length > len(data):
            break
        if name in _SIZES:
            found.height, found.width = struct.unpack_from(">HH", body, 1)
        if name == 0xDA:
            scan, pattern = start, _AFTER_PIXELS
        elif name in _NEEDED or (name == 0xE2 and bytes(body[:12]) == b"ICC_PROFILE\0"):
            found.parts.append(data[start : at + length])
        elif name == 0xE1 and bytes(body[:6]) == b"Exif\0\0" and not found.exif:
            found.exif = bytes(body)
        at += length
    raise NotAPicture(CUT_SHORT)


def _gif(data: memoryview) -> Structure:
    found, at, images = Structure(), 13, 0
    flags = data[10]
    found.width, found.height = struct.unpack_from("<HH", data, 6)
    at += 3 << ((flags & 7) + 1) if flags & 0x80 else 0
    while True:
        name = data[at]
        if name == 0x2C:
            images += 1
            flags = data[at + 9]
            at = _after_blocks(data, at + 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0))
        elif name == 0x21:
            at = _after_blocks(data, at + 2)
        elif name == 0 or (name != 0x3B and not images):
            at += 1  # some encoders leave zeros between
        else:
            break  # the end, or what browsers take for it
    found.parts = [data[:at], b";"]
    return found


def _after_blocks(data: memoryview, at: int) -> int:
    while length := data[at]:
        at += 1 + length
    return at + 1


_WEBP_PARTS = {b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"ICCP", b"EXIF", b"XMP "}


def _webp(data: memoryview) -> Structure:
    found, at = Structure(), 12
    told = int.from_bytes(data[4:8], "little") + 8
    images = 0
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        if name not in _WEBP_PARTS and (at >= told or not re.fullmatch(rb"[ -~]{4}", name)):
            break  # bytes behind the end
        if at + 8 + length > len(data):
            raise NotAPicture(CUT_SHORT)
        body = data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
        if name == b"VP8X":
            found.width, found.height = (1 + int.from_bytes(body[i : i + 3], "little") for i in (4, 7))
        elif name == b"VP8 " and not found.width:
            found.width, found.height = (n & 0x3FFF for n in struct.unpack_from("<HH", body, 6))
        elif name == b"VP8L" and not found.width:
            (bits,) = struct.unpack_from("<I", body, 1)
            found.width, found.height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif name == b"EXIF":
            found.exif = bytes(body)
        images += name in (b"VP8 ", b"VP8L", b"ANMF")
    if not images or told > len(data) + _LITTLE:
        raise NotAPicture(CUT_SHORT)
    rest = bytes(data[12:at]) + bytes(max(0, at - len(data)))  # a last byte of padding may be missing
    found.parts = [b"RIFF" + struct.pack("<I", len(rest) + 4) + b"WEBP", rest]
    return found


_BOXES = {b"ftyp", b"meta", b"mdat", b"moov", b"moof", b"free", b"skip", b"wide", b"uuid", b"styp"}


def _boxes(data: memoryview) -> Structure:
    """HEIC, AVIF and films: boxes, each with its length."""
    found, seen = Structure(), set[bytes]()
    for name, start, end in _top_boxes(data):
        over = end - len(data)
        if over > _LITTLE or (over > 0 and name != b"mdat"):
            raise NotAPicture(CUT_SHORT)
        if over > 0:  # a decoder finds out whether pixels are missing
            found.parts += [struct.pack(">I4s", 0, name), data[start + 8 :]]
        else:
            found.parts.append(data[start:end])
        seen.add(name)
    if not seen & {b"mdat", b"moov", b"moof", b"meta", b"jxlc", b"jxlp", b"jp2c"}:
        raise NotAPicture(CUT_SHORT)
    sizes = [
        struct.unpack_from(">4xII", data, place.end()) for place in re.finditer(b"ispe", data[:65536])
    ]
    found.width, found.height = max(sizes, default=(0, 0))
    return found


def _top_boxes(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    at = 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
        length = length or len(data) - at
        odd = length < 8 or not re.fullmatch(rb"[ -~]{4}", name)
        if odd or (at + length > len(data) and name not in _BOXES):
            return  # bytes behind the end
        yield name, at, at + length
        at += length
