"""Waits that end early, and threads that hold up no exit."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

import pytest

from prefect_nanobanana._common.daemon_pool import DaemonPool
from prefect_nanobanana._common.stopping import Stop, Stopped, wait, wait_for
from prefect_nanobanana.slots._queue import FairQueue

LONG = 600.0


def test_without_a_run_a_wait_is_a_wait() -> None:
    wait(0.0)
    done: Future[None] = Future()
    done.set_result(None)
    wait_for(done)


@pytest.mark.parametrize("before", [True, False], ids=["stopped-before", "stopped-meanwhile"])
@pytest.mark.parametrize("kind", ["time", "turn"])
def test_a_stop_ends_waits(kind: str, before: bool) -> None:
    stop, turn = Stop(), Future[None]()
    waits: Callable[[], None] = (lambda: wait(LONG)) if kind == "time" else (lambda: wait_for(turn))
    if before:
        stop.set()
    else:
        threading.Timer(0.1, stop.set).start()
    with pytest.raises(Stopped):
        stop.context().run(waits)


def test_a_turn_that_somebody_else_cancels_is_no_stop() -> None:
    turn: Future[None] = Future()
    turn.cancel()
    with pytest.raises(CancelledError):
        Stop().context().run(wait_for, turn)


def test_who_is_stopped_while_waiting_for_a_slot_takes_none(wait_for: Callable[..., None]) -> None:
    queue, stop = FairQueue(1), Stop()
    queue.acquire()
    with_stop = DaemonPool(1, "stopped").submit(lambda: stop.context().run(queue.acquire))
    without = DaemonPool(1, "other").submit(queue.acquire)
    wait_for(lambda: queue.waiting == 2)
    stop.set()
    with pytest.raises(Stopped):
        with_stop.result(30)
    queue.release()
    without.result(30)
    assert (queue.out, queue.waiting) == (1, 0)


def test_a_pool_makes_each_call_once() -> None:
    pool = DaemonPool(3, "numbers")
    found = [pool.submit(lambda n=n: n * n) for n in range(50)]  # type: ignore[misc]
    assert [each.result(30) for each in found] == [n * n for n in range(50)]
    failed = pool.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failed.result(30)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(lambda: 1)


def test_what_waits_in_a_pool_can_be_cancelled() -> None:
    pool, go, begun = DaemonPool(1, "one"), threading.Event(), threading.Event()

    def hold() -> bool:
        begun.set()
        return go.wait()

    first, second = pool.submit(hold), pool.submit(lambda: True)
    assert begun.wait(30)
    pool.cancel_waiting()
    assert pool.open == {first}
    assert second.cancelled()
    go.set()
    assert first.result(30)


def test_the_interpreter_does_not_wait_for_a_pool() -> None:
    code = (
        "import threading; from prefect_nanobanana._common.daemon_pool import DaemonPool;"
        "DaemonPool(1, 'x').submit(threading.Event().wait)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
