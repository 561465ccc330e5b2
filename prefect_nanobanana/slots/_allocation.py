"""How many of an account's slots this process has: takes what it needs, gives up what others need."""

from __future__ import annotations

import time

from prefect_nanobanana.slots._leaks import LeakFinder
from prefect_nanobanana.slots._leases import Leases
from prefect_nanobanana.slots._logger import logger
from prefect_nanobanana.slots._peers import Peers
from prefect_nanobanana.slots._queue import FairQueue
from prefect_nanobanana.slots._server import SharedLimit, SwitchedOff
from prefect_nanobanana.slots._timings import SlotTimings


class Allocation:
    """What one process has leased, for its queue.

    Args:
        peers: Who else uses the account.
        queue: What hands the slots on inside the process.
        timings: How long things wait.
    """

    def __init__(self, peers: Peers, queue: FairQueue, timings: SlotTimings) -> None:
        self._peers, self._queue, self._timings = peers, queue, timings
        self._leases = Leases(timings.trusted)
        self._leaks = LeakFinder(peers, timings.leaked)
        self._want = self._limit = self._giving = 0
        self._needed_at = time.monotonic()
        self._gave_at = self._polled_at = 0.0
        self._free_since: float | None = None

    @property
    def held(self) -> int:
        """How many slots this process has leased."""
        return self._leases.held

    @property
    def leases(self) -> Leases:
        """The leases that they are of."""
        return self._leases

    def settle(self, shared: SharedLimit, demand: int, limit: int, now: float) -> None:
        """Come nearer to what this process needs, and to what is fair. Never waits for a slot.

        Args:
            shared: The account's limit.
            demand: How many requests want a slot or have one.
            limit: How many slots the account has, as far as this process knows.
            now: In seconds of the monotonic clock.
        """
        self._peers.see_myself(self.held, limit=limit)
        self._limit, self._want = limit, min(demand, self._peers.size)
        if self._want >= self.held:
            self._needed_at = now
        if self._leases.renew(shared, self._timings.renew, now):
            logger().warning("A lease of the account's slots has expired; it is taken again.")
        self._giving = min(self._giving, self.held)
        short = self._want > self.held
        self._peers.look_if_due(shared, short, now)
        if not short:
            self._free_since = None
        free = self._count_free(shared, now) if short else 0
        self._give_up(shared, now)
        if not self._giving:
            self._take(shared, free, now)
        if not self._tell(shared, now):
            # Others have taken this process for dead, and have given back what it held; or the server
            # has lost its database.
            logger().warning("This process was taken for dead; it leases its slots again.")
            self.forget()
            self._peers.enter_anew(shared)

    def _count_free(self, shared: SharedLimit, now: float) -> int:
        """See how many slots are free."""
        if now - self._polled_at < self._poll_seconds() / 2:
            return 0  # woken in between
        self._polled_at = now
        size = self._peers.size
        limit = shared.read()
        if limit is None or limit.limit != size:
            shared.resize(size)
            limit = shared.read()
        if limit is None or not limit.active:
            raise SwitchedOff(f"the limit {shared.name!r} is switched off in Prefect")
        if limit.active_slots < self._held_by_all() and not self._peers.looked_at(now):
            self._peers.look(shared, now)  # somebody has given back one, and has said so by now
        held = self._held_by_all()
        self._leaks.watch(shared, limit.active_slots, self.held, now)
        free = size - max(limit.active_slots, held)
        if free <= 0:
            self._free_since = None
        elif self._free_since is None:
            self._free_since = now
        return free

    def _held_by_all(self) -> int:
        return self.held + self._peers.held_by_others

    def _give_up(self, shared: SharedLimit, now: float) -> None:
        """Give back what others need, or nobody does, as soon as the requests have ended."""
        held = self.held
        self._peers.see_myself(held)
        if self._held_by_all() <= self._peers.size and not self._peers.others_wait:
            self._giving = 0
        if self._peers.looked_at(now) and now - self._gave_at >= self._timings.settle:
            held_for = now - self._leases.newest(now)
            self._giving += self._peers.to_give_up(self._giving, held_for)
        if now - self._needed_at >= self._timings.linger:
            self._giving = max(self._giving, held - self._want)
        self._giving = min(self._giving, held)
        self._queue.resize(min(held - self._giving, self._limit))
        self._leases.split(shared, self._giving)
        given = self._leases.give_back(shared, min(self._giving, held - self._queue.out))
        if given:
            self._giving -= given
            self._gave_at, self._free_since = time.monotonic(), None

    def _take(self, shared: SharedLimit, free: int, now: float) -> None:
        if free <= 0 or self.held >= self._want:
            return
        self._peers.see_myself(self.held, waiting=True)
        waited = self._free_since is not None and now - self._free_since >= self._timings.grace
        if self._peers.place >= free and not waited:
            return
        count = min(free, self._want - self.held)
        if len(self._peers.line) > 1:
            count = min(count, max(1, self._peers.fair_share - self.held))
        if not self._peers.claim(shared, count):
            return
        lease = shared.lease(count)
        if lease is not None:
            self._leases.add(lease, count)
            self._queue.resize(min(self.held, self._limit))

    def _tell(self, shared: SharedLimit, now: float) -> bool:
        return self._peers.tell(
            shared,
            held=self.held,
            leases=self._leases.ids,
            waiting=self._want > self.held,
            now=now,
        )

    def see_what_is_known(self, shared: SharedLimit) -> None:
        """See which leases the server has forgotten, as after a restart, though it counts their slots.

        Only before anything is given back: a lease whose release was not confirmed looks the same.
        """
        self._leases.renew(shared, 0.0, time.monotonic())

    def end(self, shared: SharedLimit) -> None:
        """Give everything back."""
        self._leases.end(shared)

    def forget(self) -> None:
        """Know of no lease any more."""
        self._leases.forget()
        self._giving = 0
        self._queue.resize(0)

    def due_at(self, now: float) -> float:
        """When it is time for the next step, in seconds of the monotonic clock."""
        until = [self._peers.due_at()]
        if self._want < self.held and not self._giving:
            until.append(self._needed_at + self._timings.linger)
        if self._want > self.held:
            until.append(now + self._poll_seconds())
        return min(until)

    def _poll_seconds(self) -> float:
        slowest = self._timings.slowest_poll
        if self._peers.place != 0 or self.held >= self._peers.fair_share:
            return slowest
        return min(slowest, max(self._timings.quickest_poll, self._queue.typical_seconds / 50))
