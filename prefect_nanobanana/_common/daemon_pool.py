"""Threads that the interpreter does not wait for at its end."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonPool:
    """Runs calls in threads, as many as there are calls, up to a number.

    `ThreadPoolExecutor` has the interpreter wait for its threads at exit, without bound: a process that
    is to end within a grace period cannot have one of them wait for a server's answer.

    Args:
        threads: How many there are at most.
        name: What their names begin with.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._most, self._name = threads, name
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._open: set[Future[Any]] = set()
        self._threads = 0
        self._shut = False
        self._lock = threading.Lock()

    @property
    def open(self) -> set[Future[Any]]:
        """The calls that have not ended."""
        with self._lock:
            return set(self._open)

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Have a call made.

        Raises:
            RuntimeError: If the pool was shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._shut:
                raise RuntimeError("the pool was shut down")
            self._open.add(future)
            self._calls.put((future, call))
            if self._threads < self._most:
                self._threads += 1
                name = f"{self._name}_{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        future.add_done_callback(self._forget)
        return future

    def cancel_waiting(self) -> None:
        """Cancel the calls that no thread has begun."""
        while True:
            try:
                item = self._calls.get_nowait()
            except Empty:
                return
            if item is not None:
                item[0].cancel()

    def shutdown(self) -> None:
        """End the threads as soon as they have made the calls that there are; waits for nothing."""
        with self._lock:
            self._shut = True
            for _ in range(self._threads):
                self._calls.put(None)

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._open.discard(future)

    def _work(self) -> None:
        while True:
            item = self._calls.get()
            if item is None:
                return
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
            del item, future, call  # or this thread keeps the last job alive


def beside(call: Callable[[], T], name: str) -> Future[T]:
    """Have a call made in the caller's context, in which Prefect finds the run, while that goes on.

    Args:
        call: The call.
        name: What the thread's name begins with.
    """
    run = contextvars.copy_context().run
    pool = DaemonPool(1, name)
    begun = pool.submit(lambda: run(call))
    pool.shutdown()
    return begun
