"""Is it a picture, whole, and of what kind? By its bytes alone: a picture is what a browser shows."""

from __future__ import annotations

import base64
import functools
import io
import mmap
import re
import threading
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import IO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from prefect_nanobanana._common.similar import difference_hash
from prefect_nanobanana.images import _kinds
from prefect_nanobanana.images._kinds import HEAD_BYTES, Kind, kind_of, no_kind
from prefect_nanobanana.images._marks import marks_of
from prefect_nanobanana.images._pixels import apart, budget, inflated_size
from prefect_nanobanana.images._structure import (
    NotAPicture,
    NotDecodable,
    Structure,
    read_structure,
)
from prefect_nanobanana.images._turning import orientation, upright

__all__ = ["MAX_PIXELS", "THUMBNAIL_PIXELS", "NotAPicture", "Picture", "inspect"]

THUMBNAIL_PIXELS = 256
MAX_PIXELS = 100_000_000
"""More than any model makes; a larger picture is a decompression bomb."""

# Each format's own reader: `Image.open` warns of large pictures, and tries whatever is installed.
READERS: dict[Kind, Callable[[io.BytesIO], Image.Image]] = {
    _kinds.PNG: PngImagePlugin.PngImageFile,
    _kinds.JPEG: JpegImagePlugin.JpegImageFile,
    _kinds.GIF: GifImagePlugin.GifImageFile,
    _kinds.WEBP: WebPImagePlugin.WebPImageFile,
    _kinds.AVIF: AvifImagePlugin.AvifImageFile,
    _kinds.BMP: BmpImagePlugin.BmpImageFile,
}
_BYTES_PER_PIXEL = {_kinds.JPEG: 6, _kinds.GIF: 5, _kinds.WEBP: 16, _kinds.AVIF: 9}
"""At worst, with what decoders keep besides, as measured; 8 for the others, which may be transparent."""
MAX_DECODED_BYTES = 1_000_000_000
"""What would take more, as a WebP of more than 62 megapixels, is told by its structure alone."""
_MOST_INFLATION = 1032
"""Bytes that one byte of zlib's data can stand for (its documentation)."""
_ROWS_MISSING = "the picture is broken or cut short (rows are missing)"
_NOT_KNOWN = re.compile(r"Unsupported BMP|cannot handle \d+-(bit|layer)")
"""What Pillow says of whole pictures that it has no decoder for."""
_FIRST_BYTES = 16 * 1024
"""Of a PNG's rows, so many are unpacked where its checksums do for the rest."""
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of a PNG, by its colour type."""
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""The passes of an interlaced PNG: where each begins, and how far its pixels are apart."""


@dataclass(frozen=True)
class Picture:
    """What a picture's bytes say of it.

    Attributes:
        content_type: As `image/png`.
        extension: As `png`.
        width: In pixels, as a person sees it; 0 if it was not checked.
        height: The same.
        thumbnail: A small WebP of it, as a `data:` URL; empty if none was asked for, or can be made.
        checked: Whether it is known to be whole: it was decoded, or is a PNG with the right checksums.
        marks: What its file says of where it comes from.
        perceptual_hash: What it looks like: see `difference_hash`; empty without a thumbnail.
    """

    content_type: str
    extension: str
    width: int
    height: int
    thumbnail: str
    checked: bool = True
    marks: tuple[str, ...] = ()
    perceptual_hash: str = ""


_mapped = threading.Lock()
"""Files on disk are walked through one by one: what is mapped of them counts as memory."""


def inspect(file: IO[bytes], *, thumbnail: bool = True, length_told: bool = False) -> Picture:
    """Check that a file is a whole picture, by its structure and its pixels.

    Bytes behind the end, and parts that carry no pixels, may be anything. With a thumbnail all pixels
    are decoded, and those of a PNG counted before. The other kinds are decoded without one, too.

    A PNG without a thumbnail is checked by the checksums of its parts with pixels, its end and its first
    rows, at a few hundredths of the time of unpacking it. It may not find pixels that end too early
    though all checksums are right: no cut transfer leaves that, only an encoder that stopped.

    Args:
        file: The file, from its start; it is read and rewound.
        thumbnail: Whether to make a small picture of it, too.
        length_told: Whether it came with its length and has it: then media that cannot be checked here
            are taken unchecked.

    Returns:
        What it is.

    Raises:
        NotAPicture: If it is empty, cut short, of an unknown kind, or has too many pixels.
    """
    try:
        data = _viewed(file)
        if not data:
            raise NotAPicture("the body is empty")
        return _inspected(data, thumbnail, length_told)
    finally:
        file.seek(0)


def _viewed(file: IO[bytes]) -> memoryview:
    """All of a file, read from disk as it is needed."""
    if isinstance(file, io.BytesIO):
        return memoryview(file.getvalue())  # which is what it was made of, not a copy
    if file.seek(0, io.SEEK_END) == 0:
        return memoryview(b"")
    file.flush()
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _inspected(data: memoryview, thumbnail: bool, length_told: bool) -> Picture:
    head = bytes(data[:HEAD_BYTES])
    kind = kind_of(head)
    if kind is None:
        raise NotAPicture(no_kind(head))
    with _mapped if isinstance(data.obj, mmap.mmap) else nullcontext():
        structure, marks = read_structure(kind, data), marks_of(kind, data)
    return replace(_checked(kind, head, structure, len(data), thumbnail, length_told), marks=marks)


def _checked(
    kind: Kind, head: bytes, structure: Structure, size: int, thumbnail: bool, length_told: bool
) -> Picture:
    width, height, turned = structure.width, structure.height, orientation(structure.exif)
    needed = width * height * _BYTES_PER_PIXEL.get(kind, 8)
    if not kind.checked or (needed > MAX_DECODED_BYTES and width * height <= MAX_PIXELS):
        return _unchecked(kind, structure, length_told)
    _bound(width * height)
    if kind == _kinds.PNG:
        expected = _expected_size(structure, head)
        # The decoder does not miss rows that are not there.
        _count_png(structure, expected if thumbnail else min(expected, _FIRST_BYTES))
        if not thumbnail:
            return _upright(kind, width, height, turned)
    try:
        with budget.take(needed + size):
            return apart(functools.partial(_decoded, kind, structure, thumbnail))
    except NotDecodable:
        return _unchecked(kind, structure, length_told)


def _unchecked(kind: Kind, structure: Structure, length_told: bool) -> Picture:
    if not length_told:
        raise NotAPicture(f"{kind.name} cannot be checked, and its host did not say how long it is")
    known = (structure.width, structure.height) if kind.checked else (0, 0)
    return _upright(kind, *known, orientation(structure.exif), checked=False)


def _bound(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise NotAPicture(f"{pixels} pixels are too many")


def _decoded(kind: Kind, structure: Structure, thumbnail: bool) -> Picture:
    try:
        with READERS[kind](io.BytesIO(b"".join(structure.parts))) as image:
            _bound(image.width * image.height)
            width, height = image.size
            # A JPEG is decoded at the size wanted, which reads all of it at a fraction of the cost.
            wanted = THUMBNAIL_PIXELS * 2 if thumbnail else 1
            image.draft("RGB", (wanted, wanted))
            image.load()
            turned = orientation(structure.exif)
            if kind == _kinds.AVIF:
                turned = orientation(image.info.get("exif") or b"")
            small, looks = _small(image, turned) if thumbnail else ("", "")
            picture = _upright(kind, width, height, turned, small)
            return replace(picture, perceptual_hash=looks)
    except NotAPicture:
        raise
    except Exception as error:  # decoders raise what they like: RuntimeError, DecompressionBombError
        said = str(error)[:100]
        unknown = NotDecodable if _NOT_KNOWN.match(said) else NotAPicture
        raise unknown(f"the picture is broken or cut short ({said})") from None


def _upright(
    kind: Kind, width: int, height: int, turned: int, small: str = "", *, checked: bool = True
) -> Picture:
    if turned >= 5:
        width, height = height, width
    return Picture(kind.content_type, kind.extension, width, height, small, checked)


def _small(image: Image.Image, turned: int) -> tuple[str, str]:
    """A small picture, and the hash of what it looks like."""
    out = io.BytesIO()
    try:
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        small = upright(image, turned)
        small.convert("RGBA" if "A" in small.getbands() else "RGB").save(out, "WEBP", quality=60)
        looks = difference_hash(small)
    except Exception:  # as for a mode that cannot be converted: it is a whole picture all the same
        return "", ""
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode(), looks


def _expected_size(structure: Structure, head: bytes) -> int:
    """How many bytes the pixels of a PNG are.

    Raises:
        NotAPicture: If its header makes no sense, or so many cannot be in it.
    """
    if head[12:16] != b"IHDR" or not structure.width or not structure.height:
        raise NotAPicture("the picture is broken (it has no header, or no size)")
    depth, colour, interlaced = head[24], head[25], head[28]
    if depth not in _DEPTHS.get(colour, ()):
        raise NotAPicture("the picture is broken (its header makes no sense)")
    expected = 0
    for x, y, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(structure.width - x) // across), -(-(structure.height - y) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + (columns * depth * _CHANNELS[colour] + 7) // 8)
    if sum(map(len, structure.pixels)) * _MOST_INFLATION < expected:
        raise NotAPicture(_ROWS_MISSING)
    return expected


def _count_png(structure: Structure, expected: int) -> None:
    """Check that a PNG has so many bytes of rows.

    Raises:
        NotAPicture: If not.
    """
    try:
        try:
            size = inflated_size(structure.pixels, expected)
        except zlib.error as error:
            if "data check" not in str(error):
                raise
            structure.without_adler()
            size = inflated_size(structure.pixels, expected)
    except zlib.error as error:
        raise NotAPicture(f"the picture is broken ({error})") from None
    if size < expected:
        raise NotAPicture(_ROWS_MISSING)
