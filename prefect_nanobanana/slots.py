"""The account's request slots, shared by everything in this process.

An account may have a fixed number of requests open at once, by default one, and that is what limits
a run. Whoever asks the API holds a slot for as long as the API counts the request, no longer: not
while copying to S3, not while waiting to try again, not while an async generation runs. A slot that
becomes free is handed to the one who has waited longest, at once, be it a thread or a coroutine.

How many async generations may run at once is not told by the API: it is learned from its refusals.

Other processes are not seen from here: they are met as 429, which is waited out as the API asks.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager

from prefect_nanobanana.errors import ConcurrencyLimitReached, Paced, ServerBusy

LONGEST_PAUSE_SECONDS = 120.0
"""No refusal holds everybody back for longer; who then meets another one waits again."""
PROBE_AFTER_SECONDS = 10.0
"""So long after the last refusal or success, one async generation more than it took then is tried."""


class Turns:
    """Hands out turns, first come, first served, to threads and coroutines.

    Args:
        limit: How many may be out at once.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._out = 0
        self._waiting: deque[Future[None]] = deque()
        self._pause_until = 0.0
        self._waking = False
        self._lock = threading.Lock()

    @property
    def limit(self) -> float:
        """How many may be out at once."""
        return self._limit

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
            self._hand_out()

    def _queue(self, first: bool) -> Future[None]:
        turn: Future[None] = Future()
        with self._lock:
            if first:
                self._waiting.appendleft(turn)
            else:
                self._waiting.append(turn)
            self._hand_out()
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


class Slots:
    """The slots of one account; the `Gate` of its clients.

    Args:
        limit: How many requests may be open at once.
    """

    def __init__(self, limit: int) -> None:
        self._allowed = limit
        self._learned: int | None = None
        self.requests = Turns(limit)
        self.room = Room()

    @property
    def limit(self) -> int:
        """How many requests may be open: what was set, or less if the API said so."""
        return self._allowed if self._learned is None else min(self._allowed, self._learned)

    def allow(self, limit: int) -> None:
        """Set how many requests may be open at once."""
        self._allowed = limit
        self.requests.allow(self.limit)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold a slot; wait for one first."""
        self.requests.take()
        try:
            yield
        finally:
            self.requests.give_back()

    @asynccontextmanager
    async def ahold(self) -> AsyncIterator[None]:
        """Hold a slot; wait for one first, without blocking the event loop."""
        await self.requests.atake()
        try:
            yield
        finally:
            self.requests.give_back()

    def board(self, first: bool) -> None:
        """Wait until the API may take one more async generation."""
        self.room.take(first)

    async def aboard(self, first: bool) -> None:
        """The same without blocking the event loop."""
        await self.room.atake(first)

    def overbooked(self) -> bool:
        """Whether more have boarded than there is room for, as a refusal has shown meanwhile."""
        return self.room.overbooked()

    def boarded(self) -> None:
        """The API has taken an async generation."""
        self.room.taken()

    def leave(self, boarded: bool) -> None:
        """An async generation has ended, or (not `boarded`) was never begun."""
        if boarded:
            self.room.ended()
        self.room.give_back()

    def paced(self, error: Paced) -> None:
        """Learn from a refusal: how many requests the account may have, and how long all must wait."""
        if isinstance(error, ServerBusy):
            self.room.refused()
        if isinstance(error, ConcurrencyLimitReached):
            if error.limit:
                self._learned = error.limit
                self.requests.allow(self.limit)
            if error.retry_after_seconds:
                self.requests.pause(min(error.retry_after_seconds, LONGEST_PAUSE_SECONDS))


_ACCOUNTS: dict[str, Slots] = {}
_ACCOUNTS_LOCK = threading.Lock()


def slots_for(account: str, limit: int) -> Slots:
    """Return this process's slots of an account.

    Args:
        account: What tells accounts apart, without giving away the key.
        limit: How many requests may be open at once; the latest word counts.

    Returns:
        The same object for the same account.
    """
    with _ACCOUNTS_LOCK:
        slots = _ACCOUNTS.setdefault(account, Slots(limit))
    slots.allow(limit)
    return slots
