"""The leases of one process: how many slots they are of, and how to give back some of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from prefect_nanobanana.slots._server import SharedLimit


@dataclass(frozen=True)
class Lease:
    """Slots of this process that were leased together.

    Attributes:
        id: What the server calls it; none if the server has forgotten it, but counts the slots still.
        slots: How many they are.
        since: When they were leased, in seconds of the monotonic clock.
    """

    id: str | None
    slots: int
    since: float


class Leases:
    """What one process has leased of one account.

    Args:
        trusted_seconds: A lease that was renewed less long ago cannot have expired.
    """

    def __init__(self, trusted_seconds: float) -> None:
        self._trusted_seconds = trusted_seconds
        self._leases: list[Lease] = []
        self._renewed_at = self._renewed_on = 0.0

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._leases))

    @property
    def held(self) -> int:
        """How many slots they are of."""
        return sum(lease.slots for lease in self._leases)

    @property
    def ids(self) -> list[str]:
        """Those that the server knows."""
        return [lease.id for lease in self._leases if lease.id]

    def newest(self, default: float) -> float:
        """When the last one was taken, in seconds of the monotonic clock."""
        return max((lease.since for lease in self._leases), default=default)

    def add(self, lease: str, slots: int) -> None:
        """Remember a lease that was just taken."""
        if not self._leases:
            self._renewed_at, self._renewed_on = time.monotonic(), time.time()
        self._leases.append(Lease(lease, slots, time.monotonic()))

    def renew(self, shared: SharedLimit, every: float, now: float) -> bool:
        """Keep them all, if it is time.

        Args:
            shared: Where they are from.
            every: After how many seconds it is time.
            now: In seconds of the monotonic clock.

        Returns:
            Whether one had expired, and is held no more.
        """
        if not self._leases or now - self._renewed_at < every:
            return False
        # The monotonic clock may stand still while the machine sleeps.
        asleep = max(now - self._renewed_at, time.time() - self._renewed_on)
        expired = False
        for lease in self:
            if lease.id is None or shared.renew(lease.id):
                continue
            if asleep < self._trusted_seconds:
                # It cannot have expired: the server was restarted, and has forgotten its leases, though
                # not how many slots it had leased out. The slots are still ours, and counted.
                self._exchange(lease, replace(lease, id=None))
            else:
                self._exchange(lease)
                expired = True
        self._renewed_at, self._renewed_on = now, time.time()
        return expired

    def split(self, shared: SharedLimit, giving: int) -> None:
        """See to it that some slots can be given back by themselves, before their requests have ended.

        A lease can only be given back whole. Nobody takes what is free while one is exchanged for two,
        as this process still says that it holds it.
        """
        for lease in self._smallest_first():
            if lease.id is None or lease.slots <= giving:
                giving -= min(giving, lease.slots)
            elif giving:
                shared.release(lease.id)
                # One by one: if the server fails in between, what is leased by then is known.
                part = replace(lease, id=shared.lease(giving), slots=giving)
                rest = replace(lease, id=None, slots=lease.slots - giving)
                self._exchange(lease, part, rest)
                self._exchange(rest, replace(rest, id=shared.lease(rest.slots)))
                return

    def give_back(self, shared: SharedLimit, count: int) -> int:
        """Give back so many slots, or fewer if they cannot be given back by themselves.

        Returns:
            How many were given back.
        """
        given = 0
        for lease in self._smallest_first():
            part = min(count - given, lease.slots)
            if part <= 0 or (lease.id is not None and part < lease.slots):
                break
            if lease.id is None:
                shared.release_unleased(part)
            else:
                shared.release(lease.id)
            rest = lease.slots - part
            self._exchange(lease, *([replace(lease, slots=rest)] if rest else []))
            given += part
        return given

    def end(self, shared: SharedLimit) -> None:
        """Give everything back."""
        while self._leases:
            self.give_back(shared, min(lease.slots for lease in self._leases))

    def forget(self) -> None:
        """Know of none any more, as others have given them back."""
        self._leases = []

    def _exchange(self, lease: Lease, *parts: Lease) -> None:
        place = self._leases.index(lease)
        self._leases[place : place + 1] = parts

    def _smallest_first(self) -> list[Lease]:
        return sorted(self._leases, key=lambda lease: lease.slots)
