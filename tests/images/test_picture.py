"""Small pictures of large ones: the right way up, and made by few threads."""

from __future__ import annotations

import base64
import io
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from prefect_nanobanana.images import _pixels
from prefect_nanobanana.images._picture import inspect
from prefect_nanobanana.sandbox.pictures import draw

PNG = draw("a cat", seed="1", longest=96)
ORIENTATION = 0x0112


def _picture_of(thumbnail: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(thumbnail.partition(",")[2])))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_as_a_camera_was_held(kind: str) -> None:
    """Lying on its side, with a note that says so: its left half, red, belongs on top."""
    image = Image.new("RGB", (640, 320), "blue")
    image.paste("red", (0, 0, 320, 320))
    exif = image.getexif()
    exif[ORIENTATION] = 6
    out = io.BytesIO()
    image.save(out, kind, exif=exif)
    small = _picture_of(inspect(out).thumbnail).convert("RGB")
    assert small.size == (128, 256)
    top, bottom = (small.getpixel((64, y)) for y in (20, 236))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200 > 60 > top[2]
    assert bottom[2] > 200 > 60 > bottom[0]


def _saved(image: Image.Image, kind: str, **options: Any) -> io.BytesIO:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out


@pytest.mark.filterwarnings("ignore:.*EXIF.*:UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12"])
def test_notes_that_nobody_can_read_spoil_no_picture(kind: str, exif: bytes) -> None:
    file = _saved(Image.new("RGB", (640, 320), "blue"), kind, exif=exif)
    assert inspect(file).width == 640
    assert inspect(file, thumbnail=False).width == 640


def test_a_picture_that_cannot_be_made_small_is_one() -> None:
    image = Image.new("I;16", (1024, 1024), 7)
    assert inspect(_saved(image, "PNG")).width == 1024


def test_few_threads_decode_whoever_copies() -> None:
    with ThreadPoolExecutor(12) as copying:
        assert all(copying.map(lambda _: inspect(io.BytesIO(PNG)).thumbnail, range(24)))
    mark = f"decoding-{os.getpid()}_"
    assert 1 <= sum(thread.name.startswith(mark) for thread in threading.enumerate()) <= 2


def test_a_fork_decodes_too() -> None:
    assert inspect(io.BytesIO(PNG)).thumbnail
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # its parent's threads are not there: it would wait for ever
        os._exit(0 if inspect(io.BytesIO(PNG)).thumbnail else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_process_that_is_about_to_end_decodes_still(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = ThreadPoolExecutor(1)
    ended.shutdown()
    monkeypatch.setattr(_pixels, "_decoders", lambda _: ended)
    assert inspect(io.BytesIO(PNG)).thumbnail
