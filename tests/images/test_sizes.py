"""Smaller copies: as wide as asked, upright, and in formats of the web."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from prefect_nanobanana import InvalidInput
from prefect_nanobanana.images import smaller_copies
from prefect_nanobanana.sandbox.pictures import draw


def _png(width: int = 400, height: int = 300, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert(mode).save(out, "PNG")
    return out.getvalue()


def test_each_wish_is_granted_in_its_order() -> None:
    wishes = [(200, "webp"), (100, "jpeg"), (100, "avif"), (9_000, "webp")]
    made = smaller_copies(_png(), wishes, 80)  # type: ignore[arg-type]
    assert [(copy.format, copy.width, copy.height) for copy in made] == [
        *(("webp", 200, 150), ("jpeg", 100, 75), ("avif", 100, 75), ("webp", 400, 300)),
    ]
    for copy in made:
        with Image.open(io.BytesIO(copy.content)) as image:
            image.load()
            assert (image.format or "").lower() == copy.format
            assert image.size == (copy.width, copy.height)
    assert made[0].content_type == "image/webp"


def test_a_turned_picture_is_upright() -> None:
    image = (
        Image.open(io.BytesIO(draw("a cat", seed="1", longest=200))).convert("RGB").resize((200, 100))
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    (copy,) = smaller_copies(out.getvalue(), [(50, "webp")], 80)
    assert (copy.width, copy.height) == (50, 100)
    assert not Image.open(io.BytesIO(copy.content)).getexif().get(0x0112)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_pictures_of_all_modes(mode: str) -> None:
    content = _png(mode="L" if mode in ("P", "I;16") else mode)
    if mode in ("P", "I;16"):
        out = io.BytesIO()
        Image.open(io.BytesIO(content)).convert(mode if mode == "P" else "I;16").save(out, "PNG")
        content = out.getvalue()
    made = smaller_copies(content, [(40, "webp"), (40, "jpeg"), (40, "avif")], 80)
    assert {copy.height for copy in made} == {30}


def test_what_is_transparent_stays_so_or_is_white() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(out, "PNG")
    webp, jpeg = smaller_copies(out.getvalue(), [(32, "webp"), (32, "jpeg")], 90)
    assert Image.open(io.BytesIO(webp.content)).convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]
    pixel = Image.open(io.BytesIO(jpeg.content)).convert("RGB").getpixel((5, 5))
    assert min(pixel) > 250  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n", _png()[:200]])
def test_what_is_no_picture_is_said(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        smaller_copies(content, [(32, "webp")], 80)
