"""When to ask whether a generation has ended: soon after it has, and not all the time.

The vendor advises to wait 5 s and then to ask every 3 s. That finds an image 1.5 s late on average.
Here the first request waits until past generations of the same model began to end, and requests
stand closer together while most of them ended; before and after, the vendor's pace holds.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from prefect_nanobanana.client._timings import Timings

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

    def delay_seconds(self, elapsed: float, timings: Timings) -> float:
        """Say how long to wait before asking again.

        Args:
            elapsed: Seconds since the generation was submitted.
            timings: The pace while nothing is known of the model.
        """
        with self._lock:
            past = sorted(self._seconds)
        if len(past) < _ENOUGH:
            first = timings.first_poll - elapsed
            return first if first > 0 else timings.poll_every
        soonest = past[len(past) // 20] - timings.close_poll / 2
        latest = past[-1 - len(past) // 20] + timings.poll_every
        if elapsed < soonest:
            return max(soonest - elapsed, timings.close_poll / 2)
        return timings.close_poll if elapsed < latest else timings.poll_every


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
