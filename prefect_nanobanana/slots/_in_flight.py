"""How many async generations may be in flight, which the API does not tell: it is learned."""

from __future__ import annotations

import math
import time

from prefect_nanobanana.slots._queue import FairQueue


class InFlightLimit(FairQueue):
    """As many async generations as the API accepted before it said 503.

    Who wants to submit one acquires, submits, and says what came of it: `accepted` and later `ended`,
    or `release`.

    Args:
        probe_after_seconds: So long after the last refusal or success, one more than then is tried.
    """

    def __init__(self, probe_after_seconds: float) -> None:
        super().__init__(math.inf)
        self._probe_after_seconds = probe_after_seconds
        self._in_flight = 0
        self._learned_at = 0.0

    @property
    def limit(self) -> float:
        """How many may be in flight at once: a while after a refusal, one more than the API accepted."""
        if time.monotonic() - self._learned_at > self._probe_after_seconds:
            return self._limit + 1
        return self._limit

    def overbooked(self) -> bool:
        """Whether more have acquired than may be in flight, as a refusal has shown meanwhile."""
        with self._lock:
            return self._out > self.limit

    def accepted(self) -> None:
        """The API has accepted one more."""
        with self._lock:
            self._in_flight += 1
            if self._in_flight > self._limit:
                self._limit = self._in_flight
                self._learned_at = time.monotonic()

    def rejected(self) -> None:
        """The API had no room for more than are in flight."""
        with self._lock:
            self._limit = max(1, self._in_flight)
            self._learned_at = time.monotonic()

    def ended(self) -> None:
        """One that was accepted has ended, and gives its place to the next."""
        with self._lock:
            self._in_flight -= 1
        self.release()
