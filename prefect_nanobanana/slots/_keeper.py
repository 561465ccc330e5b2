"""Leases an account's slots from Prefect's server for this process, and gives them back.

One thread per account does all of it, and only while the account is used. Requests never wait for it
as long as the process has a slot: that is handed on inside the process, at once (see `_turns`).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import Any

from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from prefect_nanobanana.slots import _fairness as _sharing
from prefect_nanobanana.slots._leases import Leases
from prefect_nanobanana.slots._liveness import LivenessLock, is_dead, remove_lock, this_host
from prefect_nanobanana.slots._logger import logger
from prefect_nanobanana.slots._queue import Turns
from prefect_nanobanana.slots._server import LastSeen, Peer, SharedLimit, SwitchedOff

RENEW_SECONDS = 20.0
"""Leases are renewed, and a sign of life is given, so often."""
SILENT_SECONDS = 60.0
"""A process that has given no sign of life for so long is dead."""
LOOK_SECONDS = 3.0
"""So often a process that has all the slots it wants looks whether others wait."""
LINE_SECONDS = 1.0
"""So often one that waits looks who else does."""
LINGER_SECONDS = 1.0
"""A slot that nobody in this process needs is given back after this."""
EXPECT_SECONDS = 5.0
"""So long slots are leased for requests that are on their way."""
LEAVE_SECONDS = 5.0
"""A process that has not used the account for so long is not counted any more."""
GRACE_SECONDS = 3.0
"""A slot that is free for so long is taken by whoever sees it, whosever turn it is."""
SETTLE_SECONDS = 2.0
"""So long others have time to take what was given up, before more is."""
LEAKED_SECONDS = 3.0
"""What is counted for so long, and held by nobody, is held by nobody."""
ALONE_SECONDS = 10.0
"""Without a slot and without Prefect's server for so long, a process goes on without it."""
FAREWELL_PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Between the tries to give everything back, before it is left to expire: a busy SQLite refuses some."""
QUICKEST_POLL_SECONDS, SLOWEST_POLL_SECONDS = 0.1, 1.0


class Keeper:
    """Keeps this process's slots of one account.

    Args:
        account: What tells accounts apart, without giving away the key.
        turns: What hands the slots on inside the process.
        limit: How many slots the account has, as far as this process knows.
        typical: How many seconds a slot is usually held; 0 if nothing is known.
    """

    def __init__(
        self, account: str, turns: Turns, limit: Callable[[], int], typical: Callable[[], float]
    ) -> None:
        self._account, self._turns, self._limit, self._typical = account, turns, limit, typical
        self.context = Context()
        """Where Prefect's settings are found: that of the run which used the account last."""
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._thread_lock = threading.Lock()
        self._closing = threading.Event()
        self._folder = Path(get_current_settings().home) / "nanobanana"
        self._shared: SharedLimit | None = None
        self._me = self._new_peer()
        self._sign: LivenessLock | None = None
        self._entered = False
        self._leases = Leases()
        self._giving = self._expected = 0
        self._others: list[Peer] = []
        self._told: tuple[Any, ...] = ()
        self._told_at = self._renewed_at = self._renewed_on = 0.0
        self._looked_at = self._polled_at = self._gave_at = self._expected_until = 0.0
        self._seen: dict[str, LastSeen] = {}
        self._used_at = self._needed_at = time.monotonic()
        self._free_since: float | None = None
        self._counts = (0.0, 0, 0)
        self._lost_server_at: float | None = None
        self._failures = 0
        self._alone = False
        self._complained = False
        atexit.register(self.close)

    def poke(self) -> None:
        """Have the keeper look at what has changed, soon."""
        with self._thread_lock:
            self._wake.set()
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(
                    target=self.context.copy().run, args=(self._work,), name="slots", daemon=True
                )
                self._thread.start()

    def prepare(self, requests: int) -> None:
        """Get ready for requests that come soon; see `slots.Slots.prepare`."""
        self._used_at = time.monotonic()
        self._expected, self._expected_until = requests, self._used_at + EXPECT_SECONDS
        self.poke()

    def paced(self, seconds: float) -> None:
        """Have all other processes wait, too.

        Args:
            seconds: For how long the API has told this one to.
        """
        self._me.pause_seconds = seconds  # first: the other tells that it is new
        self._me.pauses += 1
        self.poke()

    def close(self) -> None:
        """Give everything back; nothing is leased any more."""
        with self._thread_lock:
            self._closing.set()
            self._wake.set()
            thread = self._thread
        if thread is not None:
            thread.join(5)

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
        demand = self._demand(now)
        if demand:
            self._used_at = now
        elif self._closing.is_set() or now - self._used_at >= LEAVE_SECONDS:
            self._leave()
            return None
        shared = self._shared or self._join(now)
        demand = max(demand, self._demand(now))
        self._me.limit = self._limit()
        want = min(demand, self._size)
        if want >= self._leases.held:
            self._needed_at = now
        if now - self._renewed_at >= RENEW_SECONDS:
            self._renew(shared, now)
        short = want > self._leases.held
        if now - self._looked_at >= (LINE_SECONDS if short else LOOK_SECONDS):
            self._look(shared, now)
        if not short:
            self._free_since = None
        free = self._count_free(shared, now) if short else 0
        self._alone = False
        self._give_up(want, now)
        self._turns.allow(min(self._leases.held - self._giving, self._limit()))
        self._leases.split(shared, self._giving)
        given = self._leases.give_back(shared, min(self._giving, self._leases.held - self._turns.out))
        if given:
            self._giving -= given
            self._gave_at, self._free_since = time.monotonic(), None
        if not self._giving:
            self._take(shared, want, free, now)
        self._tell(shared, want, now)
        return self._pause(want, now)

    def _demand(self, now: float) -> int:
        expected = self._expected if now < self._expected_until else 0
        return 0 if self._closing.is_set() else max(expected, self._turns.out + self._turns.waiting)

    def _new_peer(self) -> Peer:
        return Peer(uuid.uuid4().hex[:12], this_host(), os.getpid(), self._limit(), since=time.time())

    def _join(self, now: float) -> SharedLimit:
        shared = SharedLimit(self._account).__enter__()
        try:
            if self._sign is None:
                self._me = self._new_peer()
                self._sign = LivenessLock(self._folder, self._me.id)
            self._others = [each for each in shared.peers() if each.id != self._me.id]
            shared.resize(self._size)
            self._enter(shared, now)
        except BaseException:
            shared.__exit__(None, None, None)
            raise
        self._looked_at = self._polled_at = 0.0
        self._shared = shared
        return shared

    def _enter(self, shared: SharedLimit, now: float) -> None:
        self._entered = True  # even if the answer is lost
        shared.enter(self._me)
        self._told_at = 0.0  # all of it is told at once
        self._renewed_at, self._renewed_on = now, time.time()

    def _leave(self) -> None:
        shared, self._shared = self._shared, None
        self._turns.allow(0)
        if shared is None and self._entered:
            shared = SharedLimit(self._account).__enter__()
        told = shared is None or self._say_farewell(shared)
        self._entered = False
        self._leases, self._giving, self._seen = Leases(), 0, {}
        sign, self._sign = self._sign, None
        if sign is not None:
            sign.end(told)

    def _say_farewell(self, shared: SharedLimit) -> bool:
        try:
            for pause in (*FAREWELL_PAUSES_SECONDS, 0.0):
                try:
                    self._leases.end(shared)
                    shared.leave(self._me)
                    return True
                except Exception as error:
                    logger().debug("Slots are not given back yet: %s", error)
                    time.sleep(pause)
            return False  # they expire
        finally:
            shared.__exit__(None, None, None)

    def _renew(self, shared: SharedLimit, now: float) -> None:
        # The monotonic clock may stand still while the machine sleeps.
        asleep = max(now - self._renewed_at, time.time() - self._renewed_on)
        if self._leases.renew(shared, asleep):
            logger().warning("A lease of the account's slots has expired; it is taken again.")
        self._giving = min(self._giving, self._leases.held)
        self._renewed_at, self._renewed_on = now, time.time()

    def _look(self, shared: SharedLimit, now: float) -> None:
        """See who else uses the account."""
        self._others = [
            each
            for each in shared.peers()
            if each.id != self._me.id and not self._is_dead(shared, each, now)
        ]
        self._looked_at = now

    def _is_dead(self, shared: SharedLimit, other: Peer, now: float) -> bool:
        seen = self._seen.setdefault(other.id, LastSeen(other.beat, other.pauses, now))
        if other.pauses != seen.pauses:
            self._turns.pause(other.pause_seconds)
        if other.beat != seen.beat:
            self._seen[other.id] = seen = LastSeen(other.beat, other.pauses, now)
        silent = now - seen.since >= SILENT_SECONDS
        if not silent and not (other.host == self._me.host and is_dead(self._folder, other.id)):
            return False
        # Only one of those who notice it may give back what the dead one held.
        if shared.leave(other):
            for lease in other.leases:
                shared.release(lease)
            logger().info("%s is gone; its slots are free again.", other)
        remove_lock(self._folder, other.id)
        return True

    def _count_free(self, shared: SharedLimit, now: float) -> int:
        """See how many slots are free."""
        if now - self._polled_at < self._poll_seconds() / 2:
            return 0  # woken in between
        self._polled_at = now
        size = self._size
        limit = shared.read()
        if limit is None or limit.limit != size:
            shared.resize(size)
            limit = shared.read()
        if limit is None or not limit.active:
            raise SwitchedOff(f"the limit {shared.name!r} is switched off in Prefect")
        if limit.active_slots < self._held_by_all() and self._looked_at != now:
            self._look(shared, now)  # somebody has given back one, and has said so by now
        held = self._held_by_all()
        self._find_leaks(shared, limit.active_slots, held, now)
        free = size - max(limit.active_slots, held)
        if free <= 0:
            self._free_since = None
        elif self._free_since is None:
            self._free_since = now
        return free

    @property
    def _size(self) -> int:
        return _sharing.size(self._me, self._others)

    def _is_first(self) -> bool:
        return _sharing.line([self._me, *self._others])[:1] == [self._me.id]

    def _held_by_all(self) -> int:
        return self._leases.held + sum(each.held for each in self._others)

    def _find_leaks(self, shared: SharedLimit, counted: int, held: int, now: float) -> None:
        """Give back what is counted though nobody who is alive holds it."""
        since, *before = self._counts
        if before != [counted, held]:
            # While numbers change, somebody may hold what he has not told of yet.
            self._counts = (now, counted, held)
            return
        if counted <= held or now - since < LEAKED_SECONDS or not self._is_first():
            return
        # Everybody tells what he takes before he takes it, and gives it back before he tells: so if
        # nothing has changed around one more look, it is not that numbers were read at different times.
        self._look(shared, now)
        limit = shared.read()
        leaked = counted - self._held_by_all()
        self._counts = (now, 0, 0)
        if limit is not None and limit.active_slots == counted and leaked > 0:
            shared.release_unleased(leaked)
            logger().info("Slots of the account that nobody held are free again: %s.", leaked)

    def _give_up(self, want: int, now: float) -> None:
        """Decide how many slots to give back as soon as their requests have ended."""
        self._me.held = held = self._leases.held
        too_many = self._held_by_all() > self._size
        if not too_many and not any(each.waiting for each in self._others):
            self._giving = 0
        if self._looked_at == now and now - self._gave_at >= SETTLE_SECONDS:
            held_for = now - self._leases.newest(now)
            self._giving += _sharing.to_give_up(self._me, self._others, self._giving, held_for)
        if now - self._needed_at >= LINGER_SECONDS:
            self._giving = max(self._giving, held - want)
        self._giving = min(self._giving, held)

    def _take(self, shared: SharedLimit, want: int, free: int, now: float) -> None:
        if free <= 0 or self._leases.held >= want:
            return
        self._me.held, self._me.waiting = self._leases.held, True
        line = _sharing.line([self._me, *self._others])
        waited = self._free_since is not None and now - self._free_since >= GRACE_SECONDS
        if line.index(self._me.id) >= free and not waited:
            return
        count = min(free, want - self._leases.held)
        if len(line) > 1:
            count = min(count, max(1, _sharing.share(self._me, self._others) - self._leases.held))
        self._me.held += count
        self._me.beat += 1
        self._told_at = 0.0
        if not shared.update(self._me):
            return
        lease = shared.lease(count)
        if lease is not None:
            self._leases.add(lease, count)
            self._turns.allow(min(self._leases.held, self._limit()))
            self._me.served = True

    def _tell(self, shared: SharedLimit, want: int, now: float) -> None:
        """Tell the others what has changed, or at times that nothing has."""
        me = self._me
        me.held, me.waiting = self._leases.held, want > self._leases.held
        me.leases = self._leases.ids
        told = (me.held, me.waiting, me.limit, me.leases, me.pauses)
        if told == self._told and now - self._told_at < RENEW_SECONDS:
            return
        if told[:2] != self._told[:2]:
            me.since = time.time()
        me.beat += 1
        if not shared.update(me):
            # Others have taken this process for dead, and have given back what it held; or the server
            # has lost its database.
            logger().warning("This process was taken for dead; it leases its slots again.")
            self._leases, self._giving = Leases(), 0
            self._turns.allow(0)
            me.held, me.leases, me.waiting = 0, [], True
            self._enter(shared, now)
            return
        self._told, self._told_at = told, now

    def _pause(self, want: int, now: float) -> float:
        until = [self._told_at + RENEW_SECONDS, self._looked_at + LOOK_SECONDS]
        if want < self._leases.held and not self._giving:
            until.append(self._needed_at + LINGER_SECONDS)
        if not want:
            until.append(self._used_at + LEAVE_SECONDS)
        if want > self._leases.held:
            until.append(now + self._poll_seconds())
        return max(0.01, min(until) - time.monotonic())

    def _poll_seconds(self) -> float:
        if not self._is_first() or self._leases.held >= _sharing.share(self._me, self._others):
            return SLOWEST_POLL_SECONDS
        return min(SLOWEST_POLL_SECONDS, max(QUICKEST_POLL_SECONDS, self._typical() / 50))

    def _without_server(self, error: Exception, now: float) -> float | None:
        """Go on with the slots that there are; without any, go on alone."""
        if self._closing.is_set():
            self._leave()
            return None
        if self._lost_server_at is None:
            self._lost_server_at = now
        off = isinstance(error, SwitchedOff)
        if not self._leases.held and (off or now - self._lost_server_at >= ALONE_SECONDS):
            self._alone = True
        if self._alone and not self._complained:
            self._complained = True
            logger().warning(
                "The account's slots are shared inside this process only, as Prefect's server does not "
                "help (%s). Other processes may meet the account's limit; they wait then.",
                f"{type(error).__name__}: {error}".splitlines()[0][:200],
            )
        if self._alone:
            self._turns.allow(self._limit())
            if not (self._turns.out or self._turns.waiting):
                self._leave()
                return None
        # A busy SQLite has Prefect answer 503, and is free again in no time.
        self._failures += 1
        return min(SLOWEST_POLL_SECONDS, QUICKEST_POLL_SECONDS * 2.0 ** min(self._failures, 9))
