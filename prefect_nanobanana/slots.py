"""The account's request slots, shared by everything in this process.

An account may have a fixed number of requests open at once, by default one, and that is what limits
a run. Whoever asks the API holds a slot for as long as the API counts the request, no longer: not
while copying to S3, not while waiting to try again. A slot that becomes free is handed to the one
who has waited longest, at once, be it a thread or a coroutine.

Other processes are not seen from here: they are met as 429, which is waited out as the API asks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager

from prefect_nanobanana.errors import ConcurrencyLimitReached, Paced

LONGEST_PAUSE_SECONDS = 120.0
"""No refusal holds everybody back for longer; who then meets another one waits again."""


class Slots:
    """The slots of one account; a `client.Gate`.

    Args:
        limit: How many requests may be open at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._learned: int | None = None
        self._held = 0
        self._waiting: deque[Future[None]] = deque()
        self._pause_until = 0.0
        self._waking = False
        self._lock = threading.Lock()

    @property
    def limit(self) -> int:
        """How many requests may be open: what was set, or less if the API said so."""
        return self._limit if self._learned is None else min(self._limit, self._learned)

    def allow(self, limit: int) -> None:
        """Set how many requests may be open at once."""
        with self._lock:
            self._limit = limit
            self._hand_out()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold a slot; wait for one first."""
        turn = self._queue()
        try:
            turn.result()
        except BaseException:
            # Interrupted while waiting: a slot that was handed over meanwhile goes to the next.
            if not turn.cancel():
                self._give_back()
            raise
        try:
            yield
        finally:
            self._give_back()

    @asynccontextmanager
    async def ahold(self) -> AsyncIterator[None]:
        """Hold a slot; wait for one first, without blocking the event loop."""
        turn = self._queue()
        try:
            await asyncio.wrap_future(turn)
        except BaseException:
            if not turn.cancel():
                self._give_back()
            raise
        try:
            yield
        finally:
            self._give_back()

    def paced(self, error: Paced) -> None:
        """Learn from a refusal: how many requests the account may have, and how long all must wait."""
        with self._lock:
            if isinstance(error, ConcurrencyLimitReached):
                if error.limit:
                    self._learned = error.limit
                if error.retry_after_seconds:
                    asked = min(error.retry_after_seconds, LONGEST_PAUSE_SECONDS)
                    until = time.monotonic() + asked
                    self._pause_until = max(self._pause_until, until)

    def _queue(self) -> Future[None]:
        turn: Future[None] = Future()
        with self._lock:
            self._waiting.append(turn)
            self._hand_out()
        return turn

    def _give_back(self) -> None:
        with self._lock:
            self._held -= 1
            self._hand_out()

    def _hand_out(self) -> None:
        pause = self._pause_until - time.monotonic()
        if pause > 0:
            if self._waiting and not self._waking:
                self._waking = True
                timer = threading.Timer(pause, self._wake)
                timer.daemon = True
                timer.start()
            return
        while self._waiting and self._held < self.limit:
            turn = self._waiting.popleft()
            # Running futures cannot be cancelled: from here on the slot has an owner.
            if turn.set_running_or_notify_cancel():
                self._held += 1
                turn.set_result(None)

    def _wake(self) -> None:
        with self._lock:
            self._waking = False
            self._hand_out()


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
