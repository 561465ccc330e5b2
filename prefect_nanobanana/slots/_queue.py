"""A queue, first come, first served, for threads and coroutines; it knows of no other process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress

from prefect_nanobanana._common.stopping import wait_for


def _nothing() -> None:
    pass


class FairQueue:
    """Hands out slots, first come, first served, to threads and coroutines.

    Args:
        limit: How many may be out at once.
        changed: Is called whenever somebody has to wait, or a slot that is released goes to nobody.
            It is called with the lock held: it must be quick, and must not call the queue.
    """

    def __init__(self, limit: float, changed: Callable[[], None] = _nothing) -> None:
        self._limit = limit
        self._changed = changed
        self._out = 0
        self._waiting: deque[Future[None]] = deque()
        self._pause_until = 0.0
        self._typical_seconds = 0.0
        self._waking = False
        self._lock = threading.Lock()

    @property
    def limit(self) -> float:
        """How many may be out at once."""
        return self._limit

    @property
    def out(self) -> int:
        """How many slots are out."""
        return self._out

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        with self._lock:
            return sum(not each.cancelled() for each in self._waiting)

    @property
    def typical_seconds(self) -> float:
        """How many seconds a slot is usually held; 0 if nothing is known."""
        return self._typical_seconds

    @property
    def paused_until(self) -> float:
        """Until when nothing is handed out, in seconds of the monotonic clock."""
        return self._pause_until

    def resize(self, limit: float) -> None:
        """Set how many may be out at once."""
        with self._lock:
            self._limit = limit
            self._hand_out()

    def pause(self, seconds: float) -> None:
        """Hand out nothing for a while."""
        with self._lock:
            self._pause_until = max(self._pause_until, time.monotonic() + seconds)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot; wait for one first."""
        self.acquire()
        with self._held():
            yield

    @asynccontextmanager
    async def aslot(self) -> AsyncIterator[None]:
        """Hold a slot; wait for one first, without blocking the event loop."""
        await self.aacquire()
        with self._held():
            yield

    @contextmanager
    def _held(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self._typical_seconds += (seconds - self._typical_seconds) / 4
            self.release()

    def acquire(self, first: bool = False) -> None:
        """Wait for a slot.

        Args:
            first: Whether to go before those who wait already.

        Raises:
            Stopped: As soon as the run that waits is stopped.
        """
        turn = self._enqueue(first)
        try:
            wait_for(turn)
        except BaseException:
            # Interrupted while waiting: a slot that was handed over meanwhile goes to the next.
            if not turn.cancel():
                self.release()
            raise

    def look_forward(self, seconds: float) -> None:
        """Wait until a slot is free, or for so long."""
        turn = self._enqueue(first=False)
        with suppress(TimeoutError):
            turn.result(seconds)
        if not turn.cancel():
            self.release()

    async def aacquire(self, first: bool = False) -> None:
        """Wait for a slot without blocking the event loop; see `acquire`."""
        turn = self._enqueue(first)
        try:
            await asyncio.wrap_future(turn)
        except BaseException:
            if not turn.cancel():
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back."""
        with self._lock:
            self._out -= 1
            out = self._out
            self._hand_out()
            if self._out == out:
                self._changed()

    def _enqueue(self, first: bool) -> Future[None]:
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
            # Running futures cannot be cancelled: from here on the slot has an owner.
            if turn.set_running_or_notify_cancel():
                self._out += 1
                turn.set_result(None)

    def _wake(self) -> None:
        with self._lock:
            self._waking = False
            self._hand_out()
