"""The thread that leases an account's slots from Prefect's server for this process, and gives them back.

There is one per account, and only while the account is used. Requests never wait for it as long as the
process has a slot: that is handed on inside the process, at once (see `_queue`).
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from contextvars import Context
from pathlib import Path

from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from prefect_nanobanana.slots._allocation import Allocation
from prefect_nanobanana.slots._logger import logger
from prefect_nanobanana.slots._peers import Peers
from prefect_nanobanana.slots._queue import FairQueue
from prefect_nanobanana.slots._server import SharedLimit, SwitchedOff
from prefect_nanobanana.slots._timings import SlotTimings

CLOSE_SECONDS = 15.0
"""So long the end of a process waits for its slots to be given back; a busy server takes its time."""


class LeaseWorker:
    """Keeps this process's slots of one account.

    Args:
        account: What tells accounts apart, without giving away the key.
        queue: What hands the slots on inside the process.
        limit: How many slots the account has, as far as this process knows.
        timings: How long things wait.
    """

    def __init__(
        self, account: str, queue: FairQueue, limit: Callable[[], int], timings: SlotTimings
    ) -> None:
        self._account, self._queue, self._limit, self._timings = account, queue, limit, timings
        self._context = Context()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._thread_lock = threading.Lock()
        self._closing = threading.Event()
        folder = Path(get_current_settings().home) / "nanobanana"
        self._peers = Peers(folder, limit(), queue.pause, timings)
        self._allocation = Allocation(self._peers, queue, timings)
        self._shared: SharedLimit | None = None
        self._used_at = time.monotonic()
        self._expected, self._expected_until = 0, 0.0
        self._lost_server_at: float | None = None
        self._failures = 0
        self._alone = self._complained = False
        atexit.register(self.close)

    def work_in(self, context: Context) -> None:
        """Find Prefect's settings in this context, that of the run which used the account last."""
        self._context = context

    def wake(self) -> None:
        """Have the thread look at what has changed, soon."""
        with self._thread_lock:
            self._wake.set()
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(
                    target=self._context.copy().run, args=(self._work,), name="slots", daemon=True
                )
                self._thread.start()

    def prepare(self, requests: int) -> None:
        """Get ready for requests that come soon; see `slots.Slots.prepare`."""
        self._used_at = time.monotonic()
        self._expected, self._expected_until = requests, self._used_at + self._timings.expect
        self.wake()

    def announce_pause(self, seconds: float) -> None:
        """Have all other processes wait as long as the API has told this one to, in seconds."""
        self._peers.announce_pause(seconds)
        self.wake()

    def close(self, within_seconds: float = CLOSE_SECONDS) -> None:
        """Give everything back; nothing is leased any more."""
        with self._thread_lock:
            self._closing.set()
            self._wake.set()
            thread = self._thread
        if thread is not None:
            thread.join(within_seconds)

    def give_back(self, within_seconds: float) -> None:
        """Give everything back now; what is wanted later is leased anew."""
        self.close(within_seconds)
        with self._thread_lock:
            self._closing.clear()
        if self._queue.waiting:
            self.wake()  # another run of this process

    def _work(self) -> None:
        try:
            # What fails is tried again here, and not in Prefect's own retries, which take long.
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                while self._go_on():
                    pass
        except BaseException:
            with self._thread_lock:
                self._thread = None
            raise

    def _go_on(self) -> bool:
        self._wake.clear()
        try:
            pause = self._step(time.monotonic())
            self._lost_server_at, self._failures = None, 0
        except Exception as error:  # whatever it is, prompts are waiting
            pause = self._without_server(error, time.monotonic())
            self._closing.wait(pause or 0)
        if pause is not None:
            self._wake.wait(pause)
            return True
        with self._thread_lock:
            if not self._closing.is_set() and self._wake.is_set():
                return True
            self._thread = None
            return False

    def _step(self, now: float) -> float | None:
        """One step; returns after how many seconds the next one is due, or None if there is none."""
        demand = self._demand(now)
        if demand:
            self._used_at = now
        elif self._closing.is_set() or now - self._used_at >= self._timings.leave:
            self._leave()
            return None
        shared = self._shared or self._join()
        demand = max(demand, self._demand(now))
        self._allocation.settle(shared, demand, self._limit(), now)
        self._alone = False
        due_at = self._allocation.due_at(now)
        if not demand:
            due_at = min(due_at, self._used_at + self._timings.leave)
        return max(0.01, due_at - time.monotonic())

    def _demand(self, now: float) -> int:
        expected = self._expected if now < self._expected_until else 0
        return 0 if self._closing.is_set() else max(expected, self._queue.out + self._queue.waiting)

    def _join(self) -> SharedLimit:
        shared = SharedLimit(self._account).__enter__()
        try:
            self._peers.join(shared, self._limit())
        except BaseException:
            shared.__exit__(None, None, None)
            raise
        self._shared = shared
        return shared

    def _leave(self) -> None:
        shared, self._shared = self._shared, None
        self._queue.resize(0)
        if shared is None and self._peers.entered:
            shared = SharedLimit(self._account).__enter__()
        told = shared is None or self._say_farewell(shared)
        self._allocation.forget()
        self._peers.end(told)

    def _say_farewell(self, shared: SharedLimit) -> bool:
        looked = False
        try:
            for pause in (*self._timings.farewell, 0.0):
                try:
                    if not looked:
                        self._allocation.see_what_is_known(shared)
                        looked = True
                    self._allocation.end(shared)
                    self._peers.leave(shared)
                    return True
                except Exception as error:
                    logger().debug("Slots are not given back yet: %s", error)
                    time.sleep(pause)
            return False  # they expire
        finally:
            shared.__exit__(None, None, None)

    def _without_server(self, error: Exception, now: float) -> float | None:
        """Go on with the slots that there are; without any, go on alone."""
        if self._closing.is_set():
            self._leave()
            return None
        if self._lost_server_at is None:
            self._lost_server_at = now
        off = isinstance(error, SwitchedOff)
        if self._allocation.held:
            self._alone = False  # it was there again for long enough to lease some
        elif off or now - self._lost_server_at >= self._timings.alone:
            self._alone = True
        if self._alone and not self._complained:
            self._complained = True
            logger().warning(
                "The account's slots are shared inside this process only, as Prefect's server does not "
                "help (%s). Other processes may meet the account's limit; they wait then.",
                f"{type(error).__name__}: {error}".splitlines()[0][:200],
            )
        if self._alone:
            self._queue.resize(self._limit())
            if not (self._queue.out or self._queue.waiting):
                self._leave()
                return None
        # A busy SQLite has Prefect answer 503, and is free again in no time.
        self._failures += 1
        slowest, soonest = self._timings.slowest_poll, self._timings.try_again
        return min(slowest, soonest * 2.0 ** min(self._failures - 1, 9))
