"""Smaller copies of a picture, in formats of the web."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.images._kinds import HEAD_BYTES, kind_of
from prefect_nanobanana.images._picture import READERS, inspect
from prefect_nanobanana.images._pixels import apart, budget
from prefect_nanobanana.images._structure import NotAPicture, read_structure
from prefect_nanobanana.images._turning import orientation, upright

Format = Literal["webp", "jpeg", "avif"]
Wish = tuple[int, Format]
"""A width in pixels, and a format."""
_BYTES_PER_PIXEL = 16
"""Of the picture, turned and converted, and of what is made of it."""


@dataclass(frozen=True)
class SmallerCopy:
    """A smaller copy of a picture.

    Attributes:
        content: Its bytes.
        format: As `webp`.
        width: In pixels.
        height: In pixels.
    """

    content: bytes
    format: Format
    width: int
    height: int

    @property
    def content_type(self) -> str:
        """As `image/webp`."""
        return f"image/{self.format}"

    @property
    def sha256(self) -> str:
        """The hash of its bytes, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


def smaller_copies(content: bytes, wishes: Sequence[Wish], quality: int) -> list[SmallerCopy]:
    """Make smaller copies of a picture, which is decoded once; none is wider than the picture.

    Args:
        content: The picture's bytes.
        wishes: Width in pixels and format of each; none is made wider than the picture.
        quality: From 1 to 100, as Pillow has it.

    Returns:
        One for each wish, in the same order.

    Raises:
        InvalidInput: If it cannot be decoded here.
    """
    try:
        picture = inspect(io.BytesIO(content), thumbnail=False)
        if not picture.checked:
            raise NotAPicture(f"{picture.content_type} cannot be decoded here")
        with budget.take(picture.width * picture.height * _BYTES_PER_PIXEL + len(content)):
            return apart(functools.partial(_made, content, wishes, quality))
    except NotAPicture as error:
        raise InvalidInput(str(error)) from None


def _made(content: bytes, wishes: Sequence[Wish], quality: int) -> list[SmallerCopy]:
    try:
        whole, resized = _pixels(content), dict[int, Image.Image]()
        made = []
        for asked, name in wishes:
            width = min(asked, whole.width)
            if width not in resized:
                resized[width] = _resized(whole, width)
            made.append(_saved(resized[width], name, quality))
        return made
    except Exception as error:  # decoders and encoders raise what they like
        raise NotAPicture(f"the picture cannot be decoded ({str(error)[:100]})") from None


def _resized(whole: Image.Image, width: int) -> Image.Image:
    if width == whole.width:
        return whole
    height = max(1, round(whole.height * width / whole.width))
    return whole.resize((width, height), Image.Resampling.LANCZOS)


def _saved(picture: Image.Image, name: Format, quality: int) -> SmallerCopy:
    out = io.BytesIO()
    options: dict[str, Any] = {"quality": quality}
    if name == "jpeg":
        picture = _flattened(picture)
        options |= {"optimize": True, "progressive": True}
    picture.save(out, name.upper(), **options)
    return SmallerCopy(out.getvalue(), name, picture.width, picture.height)


def _pixels(content: bytes) -> Image.Image:
    """The picture's pixels, turned as its camera or editor says."""
    kind = kind_of(content[:HEAD_BYTES])
    assert kind is not None  # it was inspected
    structure = read_structure(kind, memoryview(content))
    with READERS[kind](io.BytesIO(b"".join(structure.parts))) as image:
        image.load()
        turned = orientation(structure.exif or image.info.get("exif") or b"")
        whole = upright(image, turned)
        return whole.convert(
            "RGBA" if "A" in whole.getbands() or "transparency" in whole.info else "RGB"
        )


def _flattened(picture: Image.Image) -> Image.Image:
    """The picture on white, as JPEG knows no transparency."""
    if picture.mode != "RGBA":
        return picture
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white
