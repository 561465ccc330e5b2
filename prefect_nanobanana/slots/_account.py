"""The account's request slots, shared by threads, coroutines, processes and machines.

An account may have a fixed number of requests open at once, by default one, and that is what limits
a run. Whoever asks the API holds a slot for as long as the API counts the request, no longer: not
while copying to S3, not while waiting to try again, not while an async generation runs. A slot that
becomes free is handed to the one in this process who has waited longest, at once, be it a thread or a
coroutine (`_queue`). Which process has how many slots is settled on Prefect's server (`_worker`).

How many async generations may run at once is not told by the API: it is learned from its refusals.

Without Prefect's API, as in a script that runs no flow, slots are shared inside the process only. Others
are met as 429 then, which is waited out as the API asks.
"""

from __future__ import annotations

import os
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING

from prefect_nanobanana.errors import ConcurrencyLimitReached, Paced, ServerBusy
from prefect_nanobanana.slots._in_flight import InFlightLimit
from prefect_nanobanana.slots._queue import FairQueue
from prefect_nanobanana.slots._timings import DEFAULT, SlotTimings

if TYPE_CHECKING:
    from prefect_nanobanana.slots._worker import LeaseWorker


class Slots:
    """The slots of one account; the `Gate` of its clients.

    Args:
        limit: How many requests may be open at once.
        timings: How long its parts wait.

    Attributes:
        queue: Where requests wait for a slot.
        in_flight: Where async generations wait until the API may accept one more.
    """

    def __init__(self, limit: int, timings: SlotTimings = DEFAULT) -> None:
        self._allowed = limit
        self._timings = timings
        self._learned: int | None = None
        self._worker: LeaseWorker | None = None
        self.queue = FairQueue(limit, self._changed)
        self.in_flight = InFlightLimit(timings.probe_after)

    @property
    def limit(self) -> int:
        """How many requests may be open: what was set, or less if the API said so."""
        return self._allowed if self._learned is None else min(self._allowed, self._learned)

    def allow(self, limit: int) -> None:
        """Set how many requests may be open at once."""
        if limit != self._allowed:
            self._allowed = limit
            self._apply()

    def share(self, account: str) -> None:
        """From now on, share the slots with other processes, by way of Prefect's server.

        Args:
            account: What tells accounts apart, without giving away the key.
        """
        if self._worker is None:
            from prefect_nanobanana.slots._worker import LeaseWorker

            self._worker = LeaseWorker(account, self.queue, lambda: self.limit, self._timings)
            self.queue.resize(0)
        # Prefect's settings are found in the context of the run.
        self._worker.work_in(copy_context())

    def prepare(self, requests: int = 0) -> None:
        """Have Prefect's server know of this process before its first request.

        Args:
            requests: How many are on their way: slots are leased for them, before they wait for it.
        """
        if self._worker is not None:
            self._worker.prepare(requests)

    def close(self) -> None:
        """Give back what is leased; nothing is leased any more."""
        if self._worker is not None:
            self._worker.close()

    def give_back(self, within_seconds: float) -> None:
        """Give back what is leased, as a run was stopped; what is wanted later is leased anew."""
        if self._worker is not None:
            self._worker.give_back(within_seconds)

    def _apply(self) -> None:
        if self._worker is None:
            self.queue.resize(self.limit)
        else:
            self._worker.wake()

    def _changed(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    def refused(self, error: Paced) -> None:
        """Learn from a refusal: how many requests the account may have, and how long all must wait."""
        if isinstance(error, ServerBusy):
            self.in_flight.rejected()
        if isinstance(error, ConcurrencyLimitReached):
            if error.limit:
                self._learned = error.limit
                self._apply()
            if error.retry_after_seconds:
                pause = min(error.retry_after_seconds, self._timings.longest_pause)
                self.queue.pause(pause)
                if self._worker is not None:
                    self._worker.announce_pause(pause)


_ACCOUNTS: dict[str, Slots] = {}
_ACCOUNTS_LOCK = threading.Lock()


def _start_anew() -> None:
    # A child process has the memory of its parent, and neither its threads nor its leases.
    global _ACCOUNTS_LOCK
    _ACCOUNTS.clear()
    _ACCOUNTS_LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def slots_for(account: str, limit: int) -> Slots:
    """Return this process's slots of an account.

    They are shared with other processes if Prefect is in use: inside of flow and task runs, and wherever
    the address of a Prefect API is set.

    Args:
        account: What tells accounts apart, without giving away the key.
        limit: How many requests may be open at once; the latest word counts.

    Returns:
        The same object for the same account.
    """
    with _ACCOUNTS_LOCK:
        slots = _ACCOUNTS.setdefault(account, Slots(limit))
        if prefect_is_in_use():
            slots.share(account)
    slots.allow(limit)
    return slots


def prefect_is_in_use() -> bool:
    """Whether there is a Prefect server to share slots by."""
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.settings import get_current_settings

    running = FlowRunContext.get() or TaskRunContext.get()
    return running is not None or bool(get_current_settings().api.url)
