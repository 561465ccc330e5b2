"""Turns to have Prefect begin a task run."""

from __future__ import annotations

import threading

AT_ONCE = 2
"""Task runs that begin at once: all of them together would share one interpreter, and the first request
would leave when the last one is ready."""


class Turns:
    """Lets a few task runs begin at once; safe to use from many threads."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(AT_ONCE)
        self._taken: set[int] = set()
        self._lock = threading.Lock()

    def take(self, position: int) -> None:
        """Wait for a turn for the prompt at this place in the list."""
        self._free.acquire()
        with self._lock:
            self._taken.add(position)

    def end(self, position: int) -> None:
        """End the prompt's turn, if it has one still."""
        with self._lock:
            if position not in self._taken:
                return
            self._taken.remove(position)
        self._free.release()
