"""Decoding within bounds of memory: few pictures at once, and few pixels, whoever copies."""

from __future__ import annotations

import functools
import os
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

BYTES_AT_ONCE = 400_000_000
"""What decoded pictures may take at once, in bytes; one that takes more is decoded alone."""
DECODERS = 2
"""A thread keeps much of the memory that it has needed once."""
_PIECE_BYTES = 256 * 1024

T = TypeVar("T")


class Budget:
    """Lets threads have so much at once, in the order in which they come.

    Args:
        most: How much; who wants more than that has it alone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Wait until there is enough left, and have it for a while."""
        amount, me = min(amount, self._most), object()
        with self._changed:
            self._queue.append(me)
            try:
                self._changed.wait_for(
                    lambda: self._queue[0] is me and self._taken + amount <= self._most
                )
                self._taken += amount
            finally:
                self._queue.remove(me)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= amount
                self._changed.notify_all()


budget = Budget(BYTES_AT_ONCE)


def apart(decode: Callable[[], T]) -> T:
    """Decode in one of few threads."""
    try:
        decoding = _decoders(os.getpid()).submit(decode)
    except RuntimeError:
        return decode()  # the interpreter is about to end, and starts no more threads
    return decoding.result()


@functools.lru_cache(maxsize=1)
def _decoders(process: int) -> ThreadPoolExecutor:
    """The threads of this process; a fork has none of its parent's."""
    return ThreadPoolExecutor(DECODERS, thread_name_prefix=f"decoding-{process}")


def inflated_size(pieces: Iterable[memoryview], most: int) -> int:
    """How many bytes zlib's data are, counted without keeping them; it stops at `most`.

    Raises:
        zlib.error: If they are broken.
    """
    size, inflater = 0, zlib.decompressobj()
    for piece in pieces:
        # What is left is copied each time: it gets little at once.
        for start in range(0, len(piece), _PIECE_BYTES):
            data: bytes | memoryview = piece[start : start + _PIECE_BYTES]
            while data and not inflater.eof:
                if size >= most:
                    return size
                # With room for one byte more, it comes to the checksum behind the last row.
                size += len(inflater.decompress(data, min(_PIECE_BYTES, most - size + 1)))
                data = inflater.unconsumed_tail
    while size < most and not inflater.eof and (rest := inflater.decompress(b"", _PIECE_BYTES)):
        size += len(rest)
    return size
