"""Is it a picture, whole, and of what kind? GalleryItem from its bytes alone."""

from __future__ import annotations

import base64
import functools
import io
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

THUMBNAIL_PIXELS = 256
MAX_PIXELS = 100_000_000
"""More than any model makes; a larger picture is a decompression bomb."""

_DECODERS = 2
"""A decoded picture takes many times the memory of its file: so many are at once, whoever copies."""
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_TAIL_BYTES = 1024
_KINDS = {
    "PNG": ("image/png", "png"),
    "JPEG": ("image/jpeg", "jpg"),
    "MPO": ("image/jpeg", "jpg"),  # a JPEG that holds further pictures, as phones make them
    "WEBP": ("image/webp", "webp"),
    "GIF": ("image/gif", "gif"),
}


class NotAPicture(Exception):
    """The bytes are no whole picture; the message says why."""


@dataclass(frozen=True)
class Picture:
    """What a picture's bytes say of it.

    Attributes:
        content_type: As `image/png`.
        extension: As `png`.
        width: In pixels.
        height: In pixels.
        thumbnail: A small WebP of it, as a `data:` URL; empty if none was asked for, or can be made.
    """

    content_type: str
    extension: str
    width: int
    height: int
    thumbnail: str


def inspect(file: IO[bytes], *, thumbnail: bool = True) -> Picture:
    """Check that a file is a whole picture.

    With a thumbnail all of it is decoded. Without one, a PNG's own checksums are checked, which costs
    a tenth of that and misses no damaged byte; the other kinds have none, and are decoded all the same.

    Args:
        file: The file, from its start; it is read and rewound.
        thumbnail: Whether to make a small picture of it, too.

    Returns:
        What it is.

    Raises:
        NotAPicture: If it is empty, cut short, of an unknown kind, or has too many pixels.
    """
    file.seek(0)
    head = file.read(512)
    if not head:
        raise NotAPicture("the body is empty")
    size = file.seek(0, io.SEEK_END)
    try:
        _check_end(file, head, size)
        file.seek(0)
        with Image.open(file, formats=_FORMATS) as image:
            kind = str(image.format)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise NotAPicture(f"{width} x {height} pixels are too many")
            small = _small(image) if thumbnail else _whole(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise NotAPicture("it has too many pixels") from None
    except UnidentifiedImageError:
        raise NotAPicture(_guess(head)) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise NotAPicture(f"the picture is broken or cut short ({error})") from None
    finally:
        file.seek(0)
    content_type, extension = _KINDS[kind]
    return Picture(content_type, extension, width, height, small)


def _check_end(file: IO[bytes], head: bytes, size: int) -> None:
    # Pillow decodes a PNG or GIF that lacks its end, and does not miss what a WebP lost. Some hosts
    # add a few bytes of their own after the end.
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        whole = b"\x00\x00\x00\x00IEND\xaeB`\x82" in tail
    elif head.startswith(b"\xff\xd8\xff"):
        whole = b"\xff\xd9" in tail
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        whole = int.from_bytes(head[4:8], "little") + 8 <= size + 1
    elif head.startswith(b"GIF8"):
        whole = tail.rstrip(b"\0\r\n").endswith(b";")
    else:
        return
    if not whole:
        raise NotAPicture("the picture is cut short")


def _whole(image: Image.Image) -> str:
    if image.format == "PNG":
        image.verify()
    else:
        image.draft("RGB", (1, 1))
        _apart(image.load)
    return ""


def _small(image: Image.Image) -> str:
    # A JPEG is decoded at the size wanted, which reads all of it at a fraction of the cost.
    image.draft("RGB", (THUMBNAIL_PIXELS * 2, THUMBNAIL_PIXELS * 2))
    return str(_apart(functools.partial(_scaled, image)))


def _scaled(image: Image.Image) -> str:
    image.load()
    out = io.BytesIO()
    try:
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        small = ImageOps.exif_transpose(image)
        small.convert("RGBA" if "A" in small.getbands() else "RGB").save(out, "WEBP", quality=60)
    except Exception:  # as for notes in it that nobody can read: it is a whole picture all the same
        return ""
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def _apart(decode: Callable[[], object]) -> object:
    """Decode in one of few threads: each keeps much of the memory that it has needed once."""
    try:
        decoding = _decoders(os.getpid()).submit(decode)
    except RuntimeError:
        return decode()  # the interpreter is about to end, and starts no more threads
    return decoding.result()


@functools.lru_cache(maxsize=1)
def _decoders(process: int) -> ThreadPoolExecutor:
    """The threads of this process; a fork has none of its parent's."""
    return ThreadPoolExecutor(_DECODERS, thread_name_prefix=f"decoding-{process}")


def _guess(head: bytes) -> str:
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head")):
        return "the body is an HTML page, not a picture"
    if start.startswith((b"{", b"[")):
        return "the body is JSON, not a picture"
    return "the body is no picture of a known kind (PNG, JPEG, WebP, GIF)"
