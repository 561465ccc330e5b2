"""The account's slots inside one process: never over, handed on at once, first come first served."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr

from prefect_nanobanana import ConcurrencyLimitReached, NanoBananaCredentials, ServerBusy
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.slots._account import Slots, slots_for
from prefect_nanobanana.slots._timings import SlotTimings


@pytest.mark.parametrize("limit", [1, 3])
def test_threads_never_exceed_the_limit(limit: int) -> None:
    slots, held, most = Slots(limit), [0], [0]
    lock = threading.Lock()

    def work(_: int) -> None:
        with slots.queue.slot():
            with lock:
                held[0] += 1
                most[0] = max(most[0], held[0])
            time.sleep(0.005)
            with lock:
                held[0] -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(40)))
    assert most[0] == limit


def test_threads_and_coroutines_share_the_account() -> None:
    with Sandbox(limit=2, latency=0.02, picture_pixels=32) as sandbox:
        credentials = NanoBananaCredentials(
            api_key=SecretStr(sandbox.api_key), base_url=sandbox.base_url, max_concurrent_requests=2
        )

        def by_thread(_: int) -> None:
            with credentials.get_client() as client:
                client.generate("x")

        async def by_coroutine() -> None:
            async with credentials.get_async_client() as client:
                await client.generate("x")

        async def many() -> None:
            await asyncio.gather(*(by_coroutine() for _ in range(8)))

        with ThreadPoolExecutor(9) as pool:
            threads = [pool.submit(by_thread, n) for n in range(8)]
            pool.submit(asyncio.run, many()).result()
            for thread in threads:
                thread.result()
    assert sandbox.account.posts == 16
    assert sandbox.account.refusals == 0, "the account was asked for more than it may have open"
    assert sandbox.account.most_open == 2


def test_first_come_first_served() -> None:
    slots, order = Slots(1), list[int]()

    def work(number: int) -> None:
        with slots.queue.slot():
            order.append(number)

    with slots.queue.slot():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
        for number, thread in enumerate(threads):
            thread.start()
            while len(slots.queue._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4]


def test_a_learned_limit_counts() -> None:
    slots = Slots(4)
    slots.refused(ConcurrencyLimitReached("x", limit=2))
    assert slots.limit == 2
    slots.refused(ConcurrencyLimitReached("x", limit=9))
    assert slots.limit == 4, "never more than the block allows"
    slots.refused(ConcurrencyLimitReached("x", limit=None))
    assert slots.limit == 4
    slots.refused(ServerBusy("x", retry_after_seconds=60))
    with slots.queue.slot():
        pass


def test_retry_after_holds_everybody_back() -> None:
    slots = Slots(2)
    slots.refused(ConcurrencyLimitReached("x", retry_after_seconds=0.3))
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        waits = list(pool.map(lambda _: _wait(slots, started), range(2)))
    assert min(waits) >= 0.29


def test_no_refusal_holds_everybody_back_for_long() -> None:
    slots = Slots(1, SlotTimings(longest_pause=0.1))
    slots.refused(ConcurrencyLimitReached("x", retry_after_seconds=86400))
    assert _wait(slots, time.monotonic()) < 10


def _wait(slots: Slots, started: float) -> float:
    with slots.queue.slot():
        return time.monotonic() - started


def test_a_cancelled_coroutine_gives_its_turn_away() -> None:
    slots = Slots(1)

    async def hold_for(seconds: float) -> None:
        async with slots.queue.aslot():
            await asyncio.sleep(seconds)

    async def run() -> None:
        first = asyncio.create_task(hold_for(0.05))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(hold_for(0))
        await asyncio.sleep(0.01)
        second.cancel()
        await first
        await asyncio.wait_for(hold_for(0), 2)
        # Cancelled at the very moment at which the slot was handed over: it must come back.
        third = asyncio.create_task(hold_for(60))
        await asyncio.sleep(0)
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        await asyncio.wait_for(hold_for(0), 2)

    asyncio.run(run())
    assert slots.queue.out == 0


def test_an_interrupted_thread_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots(1)
    enqueue = slots.queue._enqueue

    def interrupted(first: bool) -> object:
        turn = enqueue(first)
        monkeypatch.setattr(turn, "result", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        return turn

    monkeypatch.setattr(slots.queue, "_enqueue", interrupted)
    with pytest.raises(KeyboardInterrupt), slots.queue.slot():
        pass
    assert slots.queue.out == 0


def test_one_object_per_account() -> None:
    one = slots_for("acct-a", 1)
    assert slots_for("acct-a", 3) is one
    assert one.limit == 3
    assert slots_for("acct-b", 1) is not one
