"""Decoding within bounds of memory and time, whoever copies."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from odd_pictures import chunk, picture

from prefect_nanobanana.images._picture import MAX_PIXELS, NotAPicture, inspect
from prefect_nanobanana.images._pixels import Budget

MEGABYTE = 1024 * 1024


def _png(width: int, height: int, colour: int = 6, rows: int | None = None) -> bytes:
    """A PNG of one colour, which is small however large it is."""
    packer = zlib.compressobj(1)
    row = bytes(1 + width * {6: 4, 2: 3, 0: 1}[colour])
    packed = b"".join(packer.compress(row) for _ in range(height if rows is None else rows))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", packed + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b"")


def _noise() -> bytes:
    """A PNG of 62 MB, with rows for whoever only counts them."""
    packed = zlib.compress(os.urandom(4_550 * (1 + 3 * 4_550)), 0)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4_550, 4_550, 8, 2, 0, 0, 0))
    pixels = [chunk(b"IDAT", packed[at : at + MEGABYTE]) for at in range(0, len(packed), MEGABYTE)]
    return b"".join([b"\x89PNG\r\n\x1a\n", head, *pixels, chunk(b"IEND", b"")])


def _long_text() -> bytes:
    """A PNG with text that takes 1.5 GB when it is unpacked."""
    packer, zeros = zlib.compressobj(1), bytes(16 * MEGABYTE)
    text = b"".join(packer.compress(zeros) for _ in range(96)) + packer.flush()
    png = picture("PNG")
    at = png.index(b"IDAT") - 4
    return png[:at] + chunk(b"zTXt", b"workflow\0\0" + text) + png[at:]


MEASURED = """
import re, resource, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from prefect_nanobanana.images._picture import NotAPicture, inspect

def peak():
    # Linux counts the memory of whoever started this process in `ru_maxrss`, too.
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\\s*([0-9]+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def look(_):
    with Path(sys.argv[1]).open("rb") as file:
        try:
            return inspect(file, thumbnail=sys.argv[2] == "decoded").width
        except NotAPicture as error:
            return str(error)

before, started = peak(), time.monotonic()
with ThreadPoolExecutor(4) as pool:
    seen = set(pool.map(look, range(4)))
print(peak() - before, time.monotonic() - started, *seen)
"""


@pytest.mark.parametrize(
    ("content", "how", "most", "expected"),
    [
        (lambda: _png(10_000, 10_000), "decoded", 1100, "10000"),
        (lambda: _png(10_000, 10_000), "checked", 100, "10000"),
        (lambda: _png(10_000, 10_000, rows=9_999), "decoded", 100, "rows are missing"),
        (lambda: _png(20_000, 20_000, rows=1), "decoded", 100, "too many"),
        (_long_text, "decoded", 150, "96"),
        (_noise, "checked", 120, "4550"),
    ],
    ids=["decoded", "checked", "a row less", "too many", "text", "noise"],
)
def test_four_large_pictures_at_once(
    tmp_path: Path, content: object, how: str, most: int, expected: str
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content())  # type: ignore[operator]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path), how], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    kilobytes, seconds, seen = done.stdout.split(" ", 2)
    assert expected in seen
    assert int(kilobytes) // (1024 if sys.platform == "darwin" else 1) < most * 1024
    assert float(seconds) < 120


def test_what_would_take_too_much_is_told_by_its_structure() -> None:
    head = b"\0" * 4 + (9_999).to_bytes(3, "little") * 2
    webp = b"VP8X" + struct.pack("<I", 10) + head + b"VP8 " + struct.pack("<I", 20) + bytes(20)
    content = b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp
    seen = inspect(io.BytesIO(content), length_told=True)
    assert (seen.width, seen.height, seen.checked, seen.thumbnail) == (10_000, 10_000, False, "")
    with pytest.raises(NotAPicture, match="cannot be checked"):
        inspect(io.BytesIO(content))
    assert MAX_PIXELS == 100_000_000


def test_a_budget_is_never_exceeded_and_kept_by_nobody() -> None:
    budget, lock = Budget(10), threading.Lock()
    now, most = 0, 0

    def use(amount: int) -> None:
        nonlocal now, most
        with budget.take(amount):
            with lock:
                now += min(amount, 10)
                most = max(most, now)
            time.sleep(0.001)
            with lock:
                now -= min(amount, 10)

    with ThreadPoolExecutor(12) as pool:
        assert [*pool.map(use, [1, 9, 3, 99, 10, 5, 5, 2] * 20)]
    assert (now, most) == (0, 10)


def test_large_ones_are_not_passed_by_for_ever() -> None:
    budget, order = Budget(10), list[int]()

    def use(amount: int) -> None:
        with budget.take(amount):
            order.append(amount)

    with budget.take(5):
        threads = [threading.Thread(target=use, args=(amount,)) for amount in (10, 1)]
        for thread in threads:
            thread.start()
            time.sleep(0.1)
        assert order == []
    for thread in threads:
        thread.join(20)
    assert order == [10, 1]
