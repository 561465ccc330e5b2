"""The processes that use an account, this one among them, as Prefect's server knows them."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect_nanobanana.slots import _fairness
from prefect_nanobanana.slots._liveness import LivenessLock, is_dead, remove_lock, this_host
from prefect_nanobanana.slots._logger import logger
from prefect_nanobanana.slots._server import LastSeen, Peer, SharedLimit
from prefect_nanobanana.slots._timings import SlotTimings


class Peers:
    """Who lives, who holds how many slots, and who waits for one.

    Args:
        folder: Where the locks of this machine's processes are.
        limit: How many slots this process believes the account to have.
        pause: Is called when another process was told to wait, with the seconds.
        timings: How long things wait.
    """

    def __init__(
        self, folder: Path, limit: int, pause: Callable[[float], None], timings: SlotTimings
    ) -> None:
        self._folder, self._pause, self._timings = folder, pause, timings
        self._me = Peer("", this_host(), os.getpid(), limit)
        self._lock: LivenessLock | None = None
        self._others: list[Peer] = []
        self._seen: dict[str, LastSeen] = {}
        self._told: tuple[Any, ...] = ()
        self._told_at = self._looked_at = 0.0
        self._pauses, self._pause_seconds = 0, 0.0
        self._pauses_lock = threading.Lock()
        self._entered = False

    @property
    def entered(self) -> bool:
        """Whether others may count this process; true also where the server's answer was lost."""
        return self._entered

    @property
    def size(self) -> int:
        """How many slots the account has: the least that anybody believes."""
        return _fairness.size(self._me, self._others)

    @property
    def fair_share(self) -> int:
        """How many slots this process has if all who use the account have as many."""
        return _fairness.share(self._me, self._others)

    @property
    def others_wait(self) -> bool:
        """Whether another process could use more slots than it holds."""
        return any(each.waiting for each in self._others)

    @property
    def line(self) -> list[str]:
        """The ids of those who wait, in the order in which they get the next free slots."""
        return _fairness.line([self._me, *self._others])

    @property
    def place(self) -> int:
        """Where this process stands among those who wait, from 0; after all of them if it does not."""
        line = self.line
        return line.index(self._me.id) if self._me.id in line else len(line)

    @property
    def held_by_others(self) -> int:
        """How many slots the other processes say that they hold."""
        return sum(each.held for each in self._others)

    def looked_at(self, now: float) -> bool:
        """Whether the others were looked at in this very step."""
        return self._looked_at == now

    def see_myself(self, held: int, waiting: bool | None = None, limit: int | None = None) -> None:
        """Note what this process has, before the others are told of it."""
        self._me = replace(
            self._me,
            held=held,
            waiting=self._me.waiting if waiting is None else waiting,
            limit=self._me.limit if limit is None else limit,
        )

    def announce_pause(self, seconds: float) -> None:
        """Have all other processes wait, too. May be called from any thread.

        Args:
            seconds: For how long the API has told this one to.
        """
        with self._pauses_lock:
            self._pauses, self._pause_seconds = self._pauses + 1, seconds

    def join(self, shared: SharedLimit, limit: int) -> None:
        """Say that this process uses the account, and see who else does.

        Args:
            shared: The account's limit.
            limit: How many slots the account has, as far as this process knows.
        """
        if self._lock is None:
            me = uuid.uuid4().hex[:12]
            self._me = Peer(me, this_host(), os.getpid(), limit, since=time.time())
            self._lock = LivenessLock(self._folder, me)
        with self._pauses_lock:
            # What was told before is not news to those who see this process for the first time.
            pauses, seconds = self._pauses, self._pause_seconds
        self._me = replace(self._me, limit=limit, pauses=pauses, pause_seconds=seconds)
        self._others = [each for each in shared.peers() if each.id != self._me.id]
        shared.resize(self.size)
        self.enter(shared)
        self._looked_at = 0.0

    def enter(self, shared: SharedLimit) -> None:
        """Have the server know of this process."""
        self._entered = True  # even if the answer is lost
        shared.enter(self._me)
        self._told_at = 0.0  # all of it is told at once

    def enter_anew(self, shared: SharedLimit) -> None:
        """Have the server know of this process again, which was taken for dead and holds nothing."""
        self._me = replace(self._me, held=0, leases=[], waiting=True)
        self.enter(shared)

    def leave(self, shared: SharedLimit) -> None:
        """Say that this process does not use the account any more."""
        shared.leave(self._me)

    def end(self, told: bool) -> None:
        """Forget everybody.

        Args:
            told: Whether the others know that this process has left.
        """
        self._entered = False
        self._seen = {}
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.end(told)

    def look(self, shared: SharedLimit, now: float) -> None:
        """See who else uses the account."""
        if now - self._looked_at > 3 * self._timings.look:
            # The server was away for all: nobody could tell that he lives.
            self._seen = {name: replace(seen, since=now) for name, seen in self._seen.items()}
        self._others = [
            each
            for each in shared.peers()
            if each.id != self._me.id and not self._is_dead(shared, each, now)
        ]
        self._looked_at = now

    def look_if_due(self, shared: SharedLimit, waiting: bool, now: float) -> None:
        """The same, if it is time."""
        every = self._timings.line if waiting else self._timings.look
        if now - self._looked_at >= every:
            self.look(shared, now)

    def _is_dead(self, shared: SharedLimit, other: Peer, now: float) -> bool:
        seen = self._seen.setdefault(other.id, LastSeen(other.beat, other.pauses, now))
        if other.pauses != seen.pauses:
            self._pause(other.pause_seconds)
        if other.beat != seen.beat:
            self._seen[other.id] = seen = LastSeen(other.beat, other.pauses, now)
        silent = now - seen.since >= self._timings.silent
        if not silent and not (other.host == self._me.host and is_dead(self._folder, other.id)):
            return False
        # Only one of those who notice it may give back what the dead one held.
        if shared.leave(other):
            for lease in other.leases:
                shared.release(lease)
            logger().info("%s is gone; its slots are free again.", other)
        remove_lock(self._folder, other.id)
        return True

    def claim(self, shared: SharedLimit, count: int) -> bool:
        """Tell the others of slots that are about to be leased.

        Returns:
            Whether the server still knew of this process.
        """
        self._me = replace(self._me, held=self._me.held + count, beat=self._me.beat + 1)
        self._told_at = 0.0
        return shared.update(self._me)

    def tell(
        self, shared: SharedLimit, *, held: int, leases: list[str], waiting: bool, now: float
    ) -> bool:
        """Tell the others what has changed, or at times that nothing has.

        Returns:
            Whether the server still knew of this process; if not, the others take it for dead.
        """
        with self._pauses_lock:
            pauses, pause_seconds = self._pauses, self._pause_seconds
        me = replace(
            self._me,
            held=held,
            leases=leases,
            waiting=waiting,
            served=self._me.served or held > 0,
            pauses=pauses,
            pause_seconds=pause_seconds,
        )
        told = (held, waiting, me.limit, leases, pauses)
        if told == self._told and now - self._told_at < self._timings.renew:
            self._me = me
            return True
        if told[:2] != self._told[:2]:
            me = replace(me, since=time.time())
        self._me = replace(me, beat=me.beat + 1)
        if not shared.update(self._me):
            return False
        self._told, self._told_at = told, now
        return True

    def to_give_up(self, giving: int, held_for: float) -> int:
        """How many slots more to give up; see `_fairness.to_give_up`."""
        return _fairness.to_give_up(self._me, self._others, giving, held_for, self._timings)

    def due_at(self) -> float:
        """When something is to be told or looked at next, in seconds of the monotonic clock."""
        return min(self._told_at + self._timings.renew, self._looked_at + self._timings.look)
