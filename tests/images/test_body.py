"""What was downloaded is there once, hashed, and large bodies take turns."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from prefect_nanobanana.images import _body as _bodies
from prefect_nanobanana.images._body import IN_MEMORY_BYTES, Body

CHUNK = bytes(range(256)) * 256


def _body(size: int) -> Body:
    body = Body()
    for start in range(0, size, len(CHUNK)):
        body.write(CHUNK[: size - start])
    body.finish()
    return body


@pytest.mark.parametrize("size", [0, 1, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 1, 3 * IN_MEMORY_BYTES + 7])
def test_all_of_it_and_its_hashes(size: int) -> None:
    content = (CHUNK * (size // len(CHUNK) + 1))[:size]
    with closing(_body(size)) as body:
        assert body.file.read() == content
        assert (body.size, body.sha256) == (size, hashlib.sha256(content).digest())
        assert body.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
        assert body.whole == (content if size <= IN_MEMORY_BYTES else None)


def test_a_full_disk_keeps_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bodies, "_large", threading.BoundedSemaphore(1))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: Path("/dev/full").open("r+b"))  # noqa: SIM115
    body = Body()
    body.expect(IN_MEMORY_BYTES + 1)
    body.write(b"x")
    with pytest.raises(OSError, match="No space left"):
        body.finish()
    with pytest.raises(OSError, match="No space left"):
        body.close()
    assert _bodies._large.acquire(blocking=False)


@pytest.mark.parametrize("size", [1, IN_MEMORY_BYTES + 1])
def test_less_came_than_was_expected(size: int) -> None:
    with closing(Body()) as body:
        body.expect(size)
        body.write(b"x")
        body.finish()
        assert (body.file.read(), body.whole) == (b"x", b"x" if size == 1 else None)


def test_large_bodies_wait_for_each_other_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = threading.BoundedSemaphore(1)
    monkeypatch.setattr(_bodies, "_large", turns)
    first = _body(IN_MEMORY_BYTES + 1)
    ended: list[Body] = []
    waiting = threading.Thread(target=lambda: ended.append(_body(IN_MEMORY_BYTES + 1)))
    waiting.start()
    time.sleep(0.3)
    assert not ended
    _body(10).close()  # small ones wait for nothing
    first.close()
    first.close()
    waiting.join(60)
    with _bodies.PATIENCE_SECONDS.use(0.05):
        _body(IN_MEMORY_BYTES + 1).close()  # its turn did not come; it gives back none
    assert not turns.acquire(blocking=False)
    ended[0].close()
    assert turns.acquire(blocking=False)
