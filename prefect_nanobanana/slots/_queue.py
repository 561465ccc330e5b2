"""Turns, first come first served, for threads and coroutines; nothing here knows of other processes."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

PROBE_AFTER_SECONDS = 10.0
"""So long after the last refusal or success, one async generation more than it took then is tried."""


def _nothing() -> None:
    pass


class Turns:
    """Hands out turns, first come, first served, to threads and coroutines.

    Args:
        limit: How many may be out at once.
        changed: Is called whenever somebody has to wait, or a turn that is given back goes to nobody.
            It is called in the midst of things: it must be quick, and must not come back here.
    """

    def __init__(self, limit: float, changed: Callable[[], None] = _nothing) -> None:
        self._limit = limit
        self._changed = changed
        self._out = 0
        self._waiting: deque[Future[None]] = deque()
        self._pause_until = 0.0
        self._waking = False
        self._lock = threading.Lock()

    @property
    def limit(self) -> float:
        """How many may be out at once."""
        return self._limit

    @property
    def out(self) -> int:
        """How many turns are out."""
        return self._out

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        with self._lock:
            return sum(not turn.cancelled() for turn in self._waiting)

    def allow(self, limit: float) -> None:
        """Set how many may be out at once."""
        with self._lock:
            self._limit = limit
            self._hand_out()

    def pause(self, seconds: float) -> None:
        """Hand out nothing for a while."""
        with self._lock:
            self._pause_until = max(self._pause_until, time.monotonic() + seconds)

    def take(self, first: bool = False) -> None:
        """Wait for a turn.

        Args:
            first: Whether to go before those who wait already.
        """
        turn = self._queue(first)
        try:
            turn.result()
        except BaseException:
            # Interrupted while waiting: a turn that was handed over meanwhile goes to the next.
            if not turn.cancel():
                self.give_back()
            raise

    async def atake(self, first: bool = False) -> None:
        """Wait for a turn without blocking the event loop; see `take`."""
        turn = self._queue(first)
        try:
            await asyncio.wrap_future(turn)
        except BaseException:
            if not turn.cancel():
                self.give_back()
            raise

    def give_back(self) -> None:
        """End a turn."""
        with self._lock:
            self._out -= 1
            out = self._out
            self._hand_out()
            if self._out == out:
                self._changed()

    def _queue(self, first: bool) -> Future[None]:
        turn: Future[None] = Future()
        with self._lock:
            if first:
                self._waiting.appendleft(turn)
            else:
                self._waiting.append(turn)
            self._hand_out()
            if not turn.done():
                self._changed()
        return turn

    def _hand_out(self) -> None:
        pause = self._pause_until - time.monotonic()
        if pause > 0:
            if self._waiting and not self._waking:
                self._waking = True
                timer = threading.Timer(pause, self._wake)
                timer.daemon = True
                timer.start()
            return
        while self._waiting and self._out < self.limit:
            turn = self._waiting.popleft()
            # Running futures cannot be cancelled: from here on the turn has an owner.
            if turn.set_running_or_notify_cancel():
                self._out += 1
                turn.set_result(None)

    def _wake(self) -> None:
        with self._lock:
            self._waking = False
            self._hand_out()


class Room(Turns):
    """How many async generations the API has room for: as many as it took before it said 503."""

    def __init__(self) -> None:
        super().__init__(math.inf)
        self._in_flight = 0
        self._learned_at = 0.0

    @property
    def limit(self) -> float:
        """How many may be in flight at once: a while after a refusal, one more than the API took."""
        if time.monotonic() - self._learned_at > PROBE_AFTER_SECONDS:
            return self._limit + 1
        return self._limit

    def refused(self) -> None:
        """The API had no room for more than are in flight."""
        with self._lock:
            self._limit = max(1, self._in_flight)
            self._learned_at = time.monotonic()

    def overbooked(self) -> bool:
        """Whether more are out than there is room for."""
        with self._lock:
            return self._out > self.limit

    def taken(self) -> None:
        """The API took one more."""
        with self._lock:
            self._in_flight += 1
            if self._in_flight > self._limit:
                self._limit = self._in_flight
                self._learned_at = time.monotonic()

    def ended(self) -> None:
        """One that the API took has ended."""
        with self._lock:
            self._in_flight -= 1
