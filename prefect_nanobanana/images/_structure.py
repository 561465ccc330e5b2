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


class NotDecodable(NotAPicture):
    """The bytes may well be a whole picture, of a sort that no decoder here knows."""


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

    def sized(self, width: int, height: int) -> None:
        """Take note of its size in pixels."""
        self.width, self.height = width, height

    def noted(self, exif: memoryview) -> None:
        """Take note of what its camera or editor noted."""
        self.exif = bytes(exif)

    def keep(self, part: bytes | memoryview) -> None:
        """Take note of a part that a decoder needs.

        Raises:
            NotAPicture: If there are more than any encoder writes.
        """
        if len(self.parts) >= MAX_PARTS:
            raise NotAPicture(f"the picture has more than {MAX_PARTS} parts")
        self.parts.append(part)

    def without_adler(self) -> None:
        """Leave out the last four bytes of a PNG's pixels, which are a checksum that browsers ignore."""
        self.pixels[-1] = self.pixels[-1][:-4]
        body = b"IDAT" + self.pixels[-1]
        where = max(n for n, part in enumerate(self.parts) if part[4:8] == b"IDAT")
        self.parts[where] = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


CUT_SHORT = "the picture is cut short"
MAX_PARTS = 200_000
"""Each takes far more memory than it may have bytes."""
MAX_SCANS = 500
"""Of a progressive JPEG, which has ten; each may be a few bytes, and costs time for all pixels."""
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


_PALETTE = 3
_TRANSPARENCY = {0: 2, 2: 6}
"""How many bytes it takes, by a PNG's colour type."""


def _png(data: memoryview) -> Structure:
    found, at, colour = Structure([data[:8]]), 8, _PALETTE
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
        if name == b"PLTE" and colour != _PALETTE:
            continue  # it only says how to show the picture where colours are few
        if name in (b"IHDR", b"PLTE", b"IDAT") and not intact:
            raise NotAPicture(f"the picture is broken (the checksum of {name.decode()} is wrong)")
        if name == b"IHDR":
            found.sized(*struct.unpack_from(">II", body))
            colour = body[9]
        elif name == b"IDAT" and body:
            found.pixels.append(body)
        elif name == b"eXIf" and intact:
            found.noted(body)
        transparency = name == b"tRNS" and intact and length >= _TRANSPARENCY.get(colour, 1)
        if name in (b"IHDR", b"PLTE") or (name == b"IDAT" and body) or transparency:
            found.keep(chunk)


_SEGMENT = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_AFTER_PIXELS = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""Any number of fill bytes may stand before a marker: only the last one is looked for, as a search for
all of them would take the square of their number."""
_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_NEEDED = {0xC4, 0xCC, 0xDB, 0xDC, 0xDD} | _SIZES
"""Tables and sizes."""
_NAMED = {0xE2: (b"ICC_PROFILE\0", 14), 0xEE: (b"Adobe", 12)}
"""Colours, and how Adobe says what they are: how such a segment begins, and how long it is at least."""


def _jpeg(data: memoryview) -> Structure:
    found, at, pattern, scans = Structure([data[:2]]), 2, _SEGMENT, 0
    scan = None  # where the pixels begin that are read now
    while marker := pattern.search(data, at):
        name, start = marker[1][0], marker.end() - 2
        if scan is not None:
            found.keep(data[scan:start])
            scan, pattern, scans = None, _SEGMENT, scans + 1
            if scans > MAX_SCANS:
                raise NotAPicture(f"the picture has more than {MAX_SCANS} scans")
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
            found.sized(*reversed(struct.unpack_from(">HH", body, 1)))
        if name == 0xDA:
            scan, pattern = start, _AFTER_PIXELS
        elif name in _NEEDED or _is_named(name, body):
            found.keep(data[start : at + length])
        elif name == 0xE1 and bytes(body[:6]) == b"Exif\0\0" and not found.exif:
            found.noted(body)
        at += length
    raise NotAPicture(CUT_SHORT)


def _is_named(name: int, body: memoryview) -> bool:
    start, shortest = _NAMED.get(name, (b"", 0))
    return bool(start) and len(body) >= shortest and bytes(body[: len(start)]) == start


def _gif(data: memoryview) -> Structure:
    found, at, images = Structure(), 13, 0
    flags = data[10]
    found.sized(*struct.unpack_from("<HH", data, 6))
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
    found.parts.extend([data[:at], b";"])
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
            found.sized(*(1 + int.from_bytes(body[i : i + 3], "little") for i in (4, 7)))
        elif name == b"VP8 " and not found.width:
            found.sized(*(n & 0x3FFF for n in struct.unpack_from("<HH", body, 6)))
        elif name == b"VP8L" and not found.width:
            (bits,) = struct.unpack_from("<I", body, 1)
            found.sized((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        elif name == b"EXIF":
            found.noted(body)
        images += name in (b"VP8 ", b"VP8L", b"ANMF")
    if not images or told > len(data) + _LITTLE:
        raise NotAPicture(CUT_SHORT)
    rest = bytes(data[12:at]) + bytes(max(0, at - len(data)))  # a last byte of padding may be missing
    found.parts.extend([b"RIFF" + struct.pack("<I", len(rest) + 4) + b"WEBP", rest])
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
            found.keep(struct.pack(">I4s", 0, name))
            found.keep(data[start + 8 :])
        elif name == b"meta":
            # Browsers read no EXIF of an AVIF, which says itself how it is turned; a decoder would fail.
            found.keep(bytes(data[start:end]).replace(b"Exif", b"free"))
        else:
            found.keep(data[start:end])
        seen.add(name)
    if not seen & {b"mdat", b"moov", b"moof", b"meta", b"jxlc", b"jxlp", b"jp2c"}:
        raise NotAPicture(CUT_SHORT)
    sizes = [
        struct.unpack_from(">4xII", data, place.end()) for place in re.finditer(b"ispe", data[:65536])
    ]
    found.sized(*max(sizes, default=(0, 0)))
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
