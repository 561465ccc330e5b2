"""Waits that end early when their run is stopped: for a slot, before another try, between polls."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context

from prefect_nanobanana.errors import NanoBananaError


class Stopped(NanoBananaError):
    """The run was stopped, and nothing that is paid for depends on this wait."""


_STOP: ContextVar[Stop | None] = ContextVar("nanobanana_stop", default=None)
"""Of the run that this thread works for."""


class Stop:
    """Whether a run was stopped; its threads wait by `wait` and `wait_for`."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._turns: set[Future[None]] = set()
        self._lock = threading.Lock()

    def set(self) -> None:
        """End all waits, and those that would begin."""
        with self._lock:
            self._set.set()
            turns = tuple(self._turns)
        for turn in turns:
            turn.cancel()

    def context(self) -> Context:
        """A copy of the current context, whose waits end when this is set."""
        context = copy_context()
        context.run(_STOP.set, self)
        return context

    def check(self, seconds: float = 0.0) -> None:
        """Wait for so many seconds.

        Raises:
            Stopped: As soon as the run is stopped.
        """
        if self._set.wait(seconds):
            raise Stopped("the run was stopped")

    @contextmanager
    def cancels(self, turn: Future[None]) -> Iterator[None]:
        """Have a future cancelled when the run is stopped.

        Raises:
            Stopped: If it is stopped already.
        """
        with self._lock:
            self.check()
            self._turns.add(turn)
        try:
            yield
        finally:
            with self._lock:
                self._turns.discard(turn)


def wait(seconds: float) -> None:
    """Wait, as `time.sleep`.

    Raises:
        Stopped: As soon as the run is stopped.
    """
    stop = _STOP.get()
    if stop is None:
        time.sleep(seconds)
    else:
        stop.check(seconds)


def wait_for(turn: Future[None]) -> None:
    """Wait until a future is done.

    Raises:
        Stopped: As soon as the run is stopped; the future is cancelled then.
        CancelledError: If somebody else has cancelled it.
    """
    stop = _STOP.get()
    if stop is None:
        turn.result()
        return
    with stop.cancels(turn):
        try:
            turn.result()
        except CancelledError:
            stop.check()
            raise
