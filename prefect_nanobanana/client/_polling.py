"""When to ask whether a generation has ended: soon after it has, and not all the time.

The vendor advises to wait 5 s and then to ask every 3 s. That finds an image 1.5 s late on average.
Here the first request waits until past generations of the same model began to end, and requests
stand closer together while most of them ended; before and after, the vendor's pace holds.
"""

from __future__ import annotations

import threading
import time
from collections import deque

FIRST_POLL_SECONDS = 5.0
POLL_EVERY_SECONDS = 3.0
"""The vendor's advice (documentation)."""
CLOSE_POLL_SECONDS = 2.0
"""While an end is likely; so it is found a second late on average."""
_REMEMBERED = 50
_ENOUGH = 3
"""Past generations before anything is concluded from them."""


class Durations:
    """How long the last generations of a model took, in seconds; shared by all threads."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    def saw(self, seconds: float) -> None:
        """Remember one."""
        with self._lock:
            self._seconds.append(seconds)

    def delay_seconds(self, elapsed: float) -> float:
        """Say how long to wait before asking again.

        Args:
            elapsed: Seconds since the generation was submitted.
        """
        with self._lock:
            past = sorted(self._seconds)
        if len(past) < _ENOUGH:
            first = FIRST_POLL_SECONDS - elapsed
            return first if first > 0 else POLL_EVERY_SECONDS
        soonest = past[len(past) // 20] - CLOSE_POLL_SECONDS / 2
        latest = past[-1 - len(past) // 20] + POLL_EVERY_SECONDS
        if elapsed < soonest:
            return max(soonest - elapsed, CLOSE_POLL_SECONDS / 2)
        return CLOSE_POLL_SECONDS if elapsed < latest else POLL_EVERY_SECONDS


_MODELS: dict[tuple[str, str], Durations] = {}
_MODELS_LOCK = threading.Lock()


def durations_of(base_url: str, model: str) -> Durations:
    """This process's memory of a model."""
    with _MODELS_LOCK:
        return _MODELS.setdefault((base_url, model), Durations())


class Stopwatch:
    """Seconds since a generation was submitted.

    Args:
        elapsed: Seconds that had passed already.
    """

    def __init__(self, elapsed: float = 0.0) -> None:
        self._started = time.monotonic() - elapsed

    @property
    def elapsed(self) -> float:
        """Seconds since the submission."""
        return time.monotonic() - self._started
