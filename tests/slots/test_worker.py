"""An account's slots, shared by processes by way of a real Prefect server.

One process has one `Slots` per account; here several in one process stand for several processes, as
nothing but the server connects them. Killed ones are processes indeed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate, VariableCreate
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from prefect_nanobanana import ConcurrencyLimitReached, NanoBananaCredentials, RunReport
from prefect_nanobanana.sandbox.s3 import free_port
from prefect_nanobanana.slots import _account as slots_module
from prefect_nanobanana.slots._account import Slots
from prefect_nanobanana.slots._leases import Leases
from prefect_nanobanana.slots._peers import Peers
from prefect_nanobanana.slots._server import Peer, SharedLimit
from prefect_nanobanana.slots._timings import SlotTimings
from prefect_nanobanana.slots._worker import LeaseWorker

pytestmark = pytest.mark.usefixtures("prefect_server")
WaitFor = Callable[..., None]
IN_USE = slots_module.prefect_is_in_use
BRISK = SlotTimings(
    renew=0.4,
    look=0.2,
    line=0.1,
    linger=0.1,
    expect=1.0,
    leave=0.3,
    grace=0.5,
    settle=0.2,
    leaked=0.5,
    newcomer=0.3,
    turn=0.3,
    odd=0.3,
)


class Patient(SharedLimit):
    """Asks again while SQLite is busy: the keeper does that by itself."""

    def __init__(self, account: str) -> None:
        super().__init__(account)
        self._client = get_client(httpx_settings={"timeout": 60.0}, sync_client=True)


class Account:
    """An account, as Prefect's server knows it."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.client = client
        self.name = f"nano-banana-{self.id}"
        self.processes: list[Slots] = []
        self.open = self.most_open = 0
        self._lock = threading.Lock()

    def process(self, limit: int, timings: SlotTimings = BRISK) -> Slots:
        """A process that uses the account."""
        slots = Slots(limit, timings)
        slots.share(self.id)
        self.processes.append(slots)
        return slots

    @contextmanager
    def request(self, slots: Slots) -> Iterator[None]:
        """A request, as the API counts it."""
        with slots.queue.slot():
            with self._lock:
                self.open += 1
                self.most_open = max(self.most_open, self.open)
            try:
                yield
            finally:
                with self._lock:
                    self.open -= 1

    @contextmanager
    def at_work(self, slots: Slots, threads: int = 1) -> Iterator[list[float]]:
        """Requests without end; yields when each has ended."""
        ended, stop = list[float](), threading.Event()

        def work() -> None:
            while not stop.is_set():
                with self.request(slots):
                    time.sleep(0.05)
                ended.append(time.monotonic())

        with ThreadPoolExecutor(threads) as pool:
            for _ in range(threads):
                pool.submit(work)
            try:
                yield ended
            finally:
                stop.set()

    @property
    def counted(self) -> int:
        return self.client.read_global_concurrency_limit_by_name(self.name).active_slots

    @property
    def size(self) -> int:
        return self.client.read_global_concurrency_limit_by_name(self.name).limit

    def peers(self) -> list[Peer]:
        with Patient(self.id) as shared:
            return list(shared.peers())

    def at_rest(self) -> bool:
        return self.counted == 0 and not self.peers()


@pytest.fixture
def account(prefect_server: None, wait_for: WaitFor) -> Iterator[Account]:
    with get_client(sync_client=True) as client:
        account = Account(client)
        yield account
        for slots in account.processes:
            slots.close()
        wait_for(account.at_rest, 120)


def test_slots_are_leased_before_they_are_waited_for(account: Account, wait_for: WaitFor) -> None:
    slots = account.process(3)
    slots.prepare(2)
    wait_for(lambda: [each.held for each in account.peers()] == [2] and account.counted == 2)
    wait_for(account.at_rest)  # nobody came for them


def _worker_of(slots: Slots) -> LeaseWorker:
    assert slots._worker is not None
    return slots._worker


def _leases_of(slots: Slots) -> Leases:
    return _worker_of(slots)._allocation.leases


def test_a_limit_is_made_and_everything_is_given_back(account: Account, wait_for: WaitFor) -> None:
    slots = account.process(3)
    with account.request(slots):
        assert (account.size, account.counted) == (3, 1)
        [peer] = account.peers()
        wait_for(lambda: [each.held for each in account.peers()] == [1])
        assert peer.pid == os.getpid()
    wait_for(account.at_rest)
    with account.request(slots):
        assert account.counted == 1, "and it is leased again when it is needed again"


def test_several_processes_never_exceed_the_limit_and_all_get_on(account: Account) -> None:
    processes = [account.process(3) for _ in range(3)]

    def work(slots: Slots) -> None:
        with account.request(slots):
            time.sleep(0.05)

    with ThreadPoolExecutor(15) as pool:
        for _ in range(12):
            for slots in processes:
                pool.submit(work, slots)
    assert account.most_open == 3


def test_a_late_joiner_does_not_wait_for_the_end(account: Account, wait_for: WaitFor) -> None:
    first, second = account.process(1), account.process(1)
    with account.at_work(first, threads=3) as ended:
        wait_for(lambda: len(ended) > 3)
        with account.request(second):
            during = len(ended)
        wait_for(lambda: len(ended) > during + 3)
    assert account.most_open == 1


def test_slots_are_shared_out_evenly(account: Account, wait_for: WaitFor) -> None:
    first, second = account.process(4), account.process(4)
    with account.at_work(first, threads=6):
        wait_for(lambda: sorted(each.held for each in account.peers()) == [4])
        with account.at_work(second, threads=6):
            wait_for(lambda: sorted(each.held for each in account.peers()) == [2, 2])
        wait_for(lambda: max(each.held for each in account.peers()) == 4)
    assert account.most_open == 4


def test_coroutines_share_too(account: Account) -> None:
    processes = [account.process(2) for _ in range(2)]
    open_now = most = 0

    async def work(slots: Slots) -> None:
        nonlocal open_now, most
        async with slots.queue.aslot():
            open_now += 1
            most = max(most, open_now)
            await asyncio.sleep(0.02)
            open_now -= 1

    async def run() -> None:
        await asyncio.gather(*(work(slots) for slots in processes * 8))

    asyncio.run(run())
    assert most == 2


def test_a_forgotten_lease_is_still_ours(account: Account, wait_for: WaitFor) -> None:
    """As after a restart of a server that keeps its leases in memory, though not its counts."""
    first, second = account.process(1), account.process(1)
    with account.request(first):
        [lease] = _leases_of(first)
        account.client.release_concurrency_slots_with_lease(uuid.UUID(lease.id))
        account.client.increment_concurrency_slots([account.name], 1, "concurrency")
        wait_for(lambda: [each.id for each in _leases_of(first)] == [None])
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(second.queue.acquire)
            wait_for(lambda: len(account.peers()) == 2)
            time.sleep(1)
            assert not waiting.done()
            first.queue.release()
            waiting.result(120)
            second.queue.release()
            first.queue.acquire()


def test_an_expired_lease_is_leased_again(account: Account, wait_for: WaitFor) -> None:
    slots = account.process(1, replace(BRISK, trusted=0.0))
    with account.at_work(slots) as ended:
        wait_for(lambda: len(ended) > 1)
        [lease] = _leases_of(slots)
        account.client.release_concurrency_slots_with_lease(uuid.UUID(lease.id))
        wait_for(lambda: lease not in _leases_of(slots))
        before = len(ended)
        wait_for(lambda: len(ended) > before + 3)


HOLD = """
import sys, time
from prefect_nanobanana.slots import slots_for
slots = slots_for(sys.argv[1], 1)
with slots.queue.slot():
    print("holds", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def _other_process(account: Account) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT_HOME": str(PREFECT_HOME.value()),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, account.id],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_a_killed_process_gives_back_what_it_held(account: Account, wait_for: WaitFor) -> None:
    slots = account.process(1)
    with _other_process(account) as process, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slots.queue.acquire)
        wait_for(lambda: len(account.peers()) == 2)
        assert not waiting.done()
        os.kill(process.pid, signal.SIGKILL)
        waiting.result(120)  # this server never takes a lease back: we have
        slots.queue.release()


def test_a_process_that_ends_gives_everything_back(account: Account, wait_for: WaitFor) -> None:
    with _other_process(account) as process:
        assert account.counted == 1
        process.communicate("\n", timeout=30)
        assert process.returncode == 0
        assert account.at_rest()


@pytest.mark.parametrize("method", ["release", "leave"])
def test_a_busy_server_is_asked_again_to_take_slots_back(
    account: Account, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    slots, refuse = account.process(1), itertools.count()
    really = getattr(SharedLimit, method)

    def busy(shared: SharedLimit, *arguments: object) -> object:
        if next(refuse) < 4:
            raise httpx.ReadTimeout("busy")
        return really(shared, *arguments)

    with account.request(slots):
        monkeypatch.setattr(SharedLimit, method, busy)
        slots.close()
        wait_for(account.at_rest)


def test_who_does_not_know_whether_it_is_counted_leaves_all_the_same(
    account: Account, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = SharedLimit.enter

    def lost(shared: SharedLimit, peer: Peer) -> None:
        really(shared, peer)
        raise httpx.ReadTimeout("the answer is lost")

    monkeypatch.setattr(SharedLimit, "enter", lost)
    slots = account.process(1)
    slots.prepare(1)
    wait_for(lambda: len(account.peers()) == 1)
    slots.close()
    wait_for(account.at_rest)


def test_a_process_killed_on_another_machine_is_known_by_its_silence(account: Account) -> None:
    with Patient(account.id) as shared:
        shared.resize(1)
        lease = shared.lease()
        assert lease is not None
        shared.enter(Peer("elsewhere", "another/boot", 7, 1, held=1, leases=[lease]))
    started = time.monotonic()
    with account.request(account.process(1, replace(BRISK, silent=1.0))):
        assert time.monotonic() - started >= 1.0
        assert [each.id for each in account.peers()] != ["elsewhere"]


def test_what_a_restarted_server_has_forgotten_is_given_back_at_the_end(
    account: Account, wait_for: WaitFor
) -> None:
    """Between its restart and the end of the run no lease was renewed: nothing told of it before."""
    first, second = (account.process(3, replace(BRISK, renew=20.0)) for _ in range(2))
    with account.request(second):
        with account.request(first), account.request(first):
            for lease in _leases_of(first):
                account.client.release_concurrency_slots_with_lease(uuid.UUID(lease.id))
                account.client.increment_concurrency_slots([account.name], lease.slots, "concurrency")
            assert account.counted == 3
        first.close()
        wait_for(lambda: [each.held for each in account.peers()] == [1])
        assert account.counted == 1, "and not what another one holds"


def test_slots_given_back_as_a_run_was_stopped_are_leased_anew(account: Account) -> None:
    """Though its request is not answered: the process is about to end, or its next run asks again."""
    slots = account.process(1)
    with account.request(slots):
        assert account.counted == 1
        slots.give_back(30)
        assert account.at_rest()
    with account.request(slots):
        assert account.counted == 1


def test_an_old_pause_is_no_news_to_others_when_a_process_joins_again(
    account: Account, tmp_path: Path
) -> None:
    pauses: list[float] = []
    with Patient(account.id) as shared:
        one, other = (Peers(tmp_path, 1, pauses.append, BRISK) for _ in range(2))
        one.join(shared, 4)
        assert account.size == 4, "as many as it is told when it joins"
        one.announce_pause(60)
        one.tell(shared, held=0, leases=[], waiting=False, now=1.0)
        one.leave(shared)
        one.end(told=True)
        one.join(shared, 4)
        other.look(shared, 2.0)
        one.tell(shared, held=0, leases=[], waiting=True, now=3.0)
        other.look(shared, 4.0)
        assert pauses == []
        one.announce_pause(30)
        one.tell(shared, held=0, leases=[], waiting=True, now=5.0)
        other.look(shared, 6.0)
        assert pauses == [30]
        one.leave(shared)
        one.end(told=True)


def test_those_who_could_not_tell_that_they_live_are_not_dead(account: Account, tmp_path: Path) -> None:
    """The server was away for longer than a process may be silent."""
    timings = SlotTimings()
    with Patient(account.id) as shared:
        shared.resize(1)
        shared.enter(Peer("elsewhere", "another/boot", 7, 1, held=1))
        me = Peers(tmp_path, 1, lambda _: None, timings)
        me.look(shared, 100.0)
        me.look(shared, 100.0 + timings.silent + 1)
        assert me.held_by_others == 1
        for more in range(2, 100, 3):
            me.look(shared, 100.0 + timings.silent + more)
        assert me.held_by_others == 0, "silent, though it could have told"


def test_a_lease_that_is_being_split_is_not_lost(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Patient(account.id) as shared:
        shared.resize(4)
        leases, really = Leases(trusted_seconds=60), SharedLimit.lease
        whole = really(shared, 4)
        assert whole is not None
        leases.add(whole, 4)

        def fails(shared: SharedLimit, slots: int = 1) -> str | None:
            if slots == 3:
                raise httpx.ReadTimeout("busy")
            return really(shared, slots)

        with monkeypatch.context() as patch:
            patch.setattr(SharedLimit, "lease", fails)
            with pytest.raises(httpx.ReadTimeout):
                leases.split(shared, 1)
        assert leases.held == 4
        assert len(leases.ids) == 1
        for lease in leases.ids:
            shared.release(lease)
        assert account.counted == 0


def test_what_nobody_holds_is_given_back(account: Account, wait_for: WaitFor) -> None:
    """As after a restart of the server during which the peer died."""
    with Patient(account.id) as shared:
        shared.resize(2)
    account.client.increment_concurrency_slots([account.name], 2, "concurrency")
    slots = account.process(2)
    with account.request(slots), account.request(slots):
        assert account.counted == 2


def test_a_process_taken_for_dead_leases_its_slots_again(account: Account, wait_for: WaitFor) -> None:
    slots = account.process(1)
    with account.at_work(slots) as ended:
        wait_for(lambda: len(account.peers()) == 1)
        with Patient(account.id) as shared:
            [peer] = shared.peers()
            shared.leave(peer)
            for lease in peer.leases:
                shared.release(lease)
        wait_for(lambda: [each.held for each in account.peers()] == [1])
        before = len(ended)
        wait_for(lambda: len(ended) > before + 3)
        wait_for(lambda: account.counted == 1)


def test_a_learned_limit_counts_for_all(account: Account, wait_for: WaitFor) -> None:
    first, second = account.process(3), account.process(3)
    with account.at_work(first, threads=3), account.at_work(second, threads=3):
        wait_for(lambda: sum(each.held for each in account.peers()) == 3)
        first.refused(ConcurrencyLimitReached("x", limit=1))
        wait_for(lambda: account.size == 1 and account.counted == 1)
        account.most_open = 0
        wait_for(lambda: account.most_open > 0)
        time.sleep(1)
        assert account.most_open == 1


def test_retry_after_is_obeyed_by_other_processes(account: Account, wait_for: WaitFor) -> None:
    first, second = account.process(2), account.process(2)
    with account.at_work(second) as ended:
        with account.request(first):
            wait_for(lambda: len(ended) > 0 and len(_worker_of(second)._peers._seen) == 1)
            first.refused(ConcurrencyLimitReached("x", retry_after_seconds=1.5))
            wait_for(lambda: second.queue.paused_until > 0)
        until = second.queue.paused_until
        wait_for(lambda: ended[-1] > until)
    assert [each for each in ended if until - 1 < each < until] == []


def test_a_limit_that_somebody_deletes_is_made_again(account: Account, wait_for: WaitFor) -> None:
    slots = account.process(1)
    with account.request(slots):
        account.client.delete_global_concurrency_limit_by_name(account.name)
    wait_for(lambda: not account.peers())
    with account.request(slots):
        assert (account.size, account.counted) == (1, 1)


def test_a_limit_that_is_switched_off_limits_this_process_only(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    with Patient(account.id) as shared:
        shared.resize(1)
    account.client.update_global_concurrency_limit(
        account.name, GlobalConcurrencyLimitUpdate(active=False)
    )
    with account.request(account.process(1)), account.request(account.process(1)):
        pass
    assert "switched off in Prefect" in caplog.text


def test_without_a_server_the_process_goes_on_alone(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        slots = Slots(2, replace(BRISK, alone=0.5))
        slots.share("nobody")
        with slots.queue.slot(), slots.queue.slot():
            pass
    assert "shared inside this process only" in caplog.text
    slots.close()


def test_the_main_job_shares_its_slots(
    run: Callable[..., RunReport],
    credentials: NanoBananaCredentials,
    monkeypatch: pytest.MonkeyPatch,
    wait_for: WaitFor,
) -> None:
    monkeypatch.setattr(slots_module, "prefect_is_in_use", IN_USE)
    report = run("a", "b", "c")
    assert report.stored == 3
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(f"nano-banana-{credentials.account}")
        assert limit.limit == 1
        assert credentials.api_key.get_secret_value() not in limit.name
        wait_for(lambda: client.read_global_concurrency_limit_by_name(limit.name).active_slots == 0)


def test_what_others_write_there_does_no_harm(account: Account) -> None:
    prefix = f"nano_banana_slots_{account.id}_"
    for name, value in (("x", "text"), ("y", {"id": "y"}), ("z", asdict(Peer("other", "h", 1, 1)))):
        account.client.create_variable(VariableCreate(name=prefix + name, value=value))
    assert account.peers() == []
    with account.request(account.process(1)):
        pass


def test_a_life_sign_ends_with_its_process(tmp_path: Path) -> None:
    from prefect_nanobanana.slots._liveness import LivenessLock, is_dead, remove_lock

    assert not is_dead(tmp_path, "never-was")
    sign = LivenessLock(tmp_path, "x")
    assert not is_dead(tmp_path, "x")
    sign.end()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "killed.lock").touch()
    assert is_dead(tmp_path, "killed")
    assert is_dead(tmp_path, "killed"), "until all can know it"
    remove_lock(tmp_path, "killed")
    assert not is_dead(tmp_path, "killed")
    (tmp_path / "file").touch()
    LivenessLock(tmp_path / "file", "nowhere to lock").end()
