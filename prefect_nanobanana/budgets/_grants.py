"""What one process may spend of a shared budget.

Nothing is locked, and no conditional write is needed, so any S3 store will do. A process first writes
what it wants to have, and then lists what all have. It may spend it only if all of that together is
within the budget; else it takes back what it wrote. Of two that do so at the same moment, the one that
listed last has seen both. Stores answer with what was written before (AWS: "strong read-after-write
consistency" of lists, since December 2020).

What a process has set aside stays so if it is killed: it may have been spent. The batch's records say
what was, and whoever has read them settles it. All times are the store's: it says when it wrote what.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import uuid4

from prefect_nanobanana._common.adjustable import Adjustable
from prefect_nanobanana.budgets._books import Books
from prefect_nanobanana.budgets._entries import Entry, newest
from prefect_nanobanana.budgets._periods import Period, period_of
from prefect_nanobanana.budgets._terms import BudgetTerms
from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.models import Credits
from prefect_nanobanana.s3 import ObjectStore

PROMPTS_AHEAD = 60
"""For so many prompts credits are set aside at once, by three requests to the store."""
_TRIES = 4
Settle = Callable[[str, str], Credits | None]
"""Given a batch's address and a process, what it has spent at most; None if nobody can say."""


@dataclass(frozen=True)
class GrantTimes:
    """How long things hold, in seconds.

    Attributes:
        renew: What was set aside so long ago is written again before the next request leaves.
        dead: A process that has written nothing for so long sends nothing more; more than twice `renew`.
        room: So long a refusal holds for all that need as much.
        again: Two that were in each other's way try again within this.
    """

    renew: float = 1500.0
    dead: float = 3600.0
    room: float = 5.0
    again: float = 0.3


TIMES = Adjustable(GrantTimes())


class Grants:
    """What one process may spend of a shared budget. One thread at a time may call it.

    Args:
        store: Where the budget's books are.
        terms: What it allows.
        batch: The address of the batch that the process works on.
        settle: Says what another process has spent.

    Attributes:
        process: Digits that stand for it; the attempts of its requests begin with them.
        periods: In how many periods it has joined so far.
    """

    def __init__(self, store: ObjectStore, terms: BudgetTerms, batch: str, settle: Settle) -> None:
        self._books = Books(store, terms.name)
        self._terms = terms
        self._batch = batch
        self._settle = settle
        self._times = TIMES.get()
        self.process = uuid4().hex[:12]
        self._digits = sha256(batch.encode()).hexdigest()[:12]
        self._ahead = timedelta()
        self._period: Period | None = None
        self._number = 0
        self.periods = 0
        self._written: list[Entry] = []
        self._spent_in: dict[str, Credits] = {}
        self._base: Credits = 0
        self._granted: Credits = 0
        self._renewed = (-math.inf, -math.inf)
        self._room: Credits = terms.credits
        self._looked = -math.inf
        self._at_worst: list[Entry] | None = None
        self._unlisted = False
        self._unsettled: set[tuple[str, int]] = set()

    @property
    def holds_for(self) -> float:
        """How long what is granted may be spent without asking anew, in seconds."""
        return self._times.renew

    def covers(self, total: Credits) -> bool:
        """Whether the process may have spent so much, in credits, with what it has been granted."""
        if self._period is None or self._is_old():
            return False
        return total - self._base <= self._granted and self._now() < self._period.ends

    def could_cover(self, total: Credits) -> bool:
        """Whether the process could spend so much if nothing else of its own were under way."""
        return self._period is None or total - self._base <= self._room

    def extend(self, total: Credits, ahead: Credits, spent: Credits, told: Credits = 0) -> bool:
        """Have more set aside.

        Args:
            total: What the process will have spent at most, in credits, since it began to count.
            ahead: What it would like to have besides, so that it need not ask for each request.
            spent: What it has spent so far, or may have: all but the request that this is about.
            told: What of that answers have told: it stays as it is.

        Returns:
            Whether it may go on. If not, `left` says why.

        Raises:
            StorageError: If the books cannot be read or written, or the store does not list what was
                written; then nothing may be spent.
        """
        self._turn_over(spent, told)
        just_looked = time.monotonic() - self._looked < self._times.room
        if just_looked and math.ceil(total - self._base) > self._room:
            return False
        for _ in range(_TRIES):
            self._turn_over(spent, told)
            answer = self._try(math.ceil(total - self._base), ahead, spent, told)
            if answer is not None:
                return answer
            time.sleep(random.uniform(0, self._times.again))
        if self._unlisted:
            raise StorageError("the store does not list what was written a moment ago")
        return False

    def count_before(self, credits: Credits) -> None:
        """Take note that what was under way when the period ended has cost so much: it counts there."""
        self._base += credits

    def close(self, spent: Credits) -> None:
        """Give back what was not spent.

        Args:
            spent: What the process has spent since it began to count, in credits, or may have.

        Raises:
            StorageError: If that cannot be written.
        """
        self._granted = 0
        if self._period is None or not self._written:
            return
        used = max(0, spent - self._base)
        self._write(used, closed=True)
        self._spent_in[self._period.name] = used
        self._written = []  # the last two stay where they are
        for entry in self._at_worst or ():  # what this run has found out may settle them
            self._settle_one(entry)
        self._at_worst = None

    def room(self) -> Credits:
        """What nobody has spent or set aside in this period, in credits.

        Raises:
            StorageError: If the books cannot be read.
        """
        period = self._period or self._period_now()
        entries = newest(self._books.entries(period)).values()
        return self._terms.credits - sum(entry.credits for entry in entries)

    @property
    def left(self) -> str:
        """What is left, and until when, in words."""
        return self._terms.left(self._room - self._granted, self._period or self._period_now())

    def _try(self, need: int, ahead: Credits, spent: Credits, told: Credits) -> bool | None:
        """Write, look, and keep what fits; None if it is worth trying again."""
        assert self._period is not None
        if self._is_old():  # others may have taken it for dead, and settled it
            self._granted = min(self._granted, max(0, math.ceil(spent - self._base)))
        # Others of the process may use what it has at this moment: that becomes no less.
        least, known = max(need, self._granted), self._room
        wanted = least + max(0, math.floor(min(ahead, (known - least) / 4)))
        began = time.monotonic(), time.time()
        entry = self._write(wanted)
        entries = self._books.entries(self._period)
        written = next((e.written for e in entries if e.key == entry.key), None)
        self._unlisted = written is None
        if written is None:
            self._write(self._granted)
            return None
        self._ahead = written - datetime.now(UTC)
        there = period_of(written, self._terms.kind, self._terms.zone)
        if there != self._period:  # by the store's clock, which is the one that counts
            base = min(told, spent) if self._granted else self._base
            self.close(spent)
            self._begin(there, base)
            return None
        others = self._settled(entries, written, need)
        self._room, self._looked = self._terms.credits - others, time.monotonic()
        if need > self._room:
            self._write(self._granted)
            # Somebody's wish may have gone too far, and is taken back at this moment.
            return None if self._room < known and need <= known else False
        if wanted > self._room:
            wanted = max(self._granted, need + max(0, math.floor((self._room - need) / 4)))
            self._write(wanted)
        self._granted, self._renewed = wanted, began
        return True

    def _write(self, credits: Credits, *, closed: bool = False) -> Entry:
        """Write the process's own entry. The one before stays, for those who list at this moment."""
        assert self._period is not None
        self._number += 1  # of each try: one whose answer is lost may be there
        entry = Entry(self._digits, self.process, self._number, credits, closed)
        entry = replace(entry, key=self._books.key(self._period, entry.name))
        self._written.append(entry)
        self._books.put(entry, self._batch)
        for former in self._written[:-2]:
            self._books.remove(former)
        self._written = self._written[-2:]
        return entry

    def _settled(self, entries: list[Entry], now: datetime, need: int) -> Credits:
        """What the others have, after those were settled that have died; in credits."""
        others = newest(entry for entry in entries if entry.process != self.process)
        total = sum(entry.credits for entry in others.values())
        ended = {e.process for e in others.values() if e.closed or _age(e, now) > self._times.dead}
        if self._at_worst is None:
            # Of this batch once: what became of its requests may have become known since.
            ours = (entry for entry in others.values() if entry.batch == self._digits)
            before = [entry for entry in ours if entry.process in ended]
            self._at_worst = [self._settle_one(entry) for entry in before]
            total -= sum(entry.credits for entry in before)
            total += sum(entry.credits for entry in self._at_worst)
        for entry in others.values():  # of other batches if need be
            if total + need > self._terms.credits and entry.process in ended and not entry.closed:
                total -= entry.credits - self._settle_one(entry).credits
        return total

    def _settle_one(self, entry: Entry) -> Entry:
        """Write what a process that has ended has really spent; returns the entry that counts then."""
        if (entry.process, entry.number) in self._unsettled:
            return entry
        try:
            ours = entry.batch == self._digits
            batch = self._batch if ours else self._books.batch_of(entry)
            spent = self._settle(batch, entry.process) if batch is not None else None
            if spent is None:
                self._unsettled.add((entry.process, entry.number))
                return entry  # at worst
            spent = min(spent, entry.credits)
            if spent == entry.credits and entry.closed:
                return entry
            settled = replace(entry, number=entry.number + 1, credits=spent, closed=True)
            settled = replace(settled, key=f"{entry.folder}/{settled.name}")
            self._books.put(settled, batch or "")
        except StorageError:
            return entry
        return settled

    def _turn_over(self, spent: Credits, told: Credits) -> None:
        """Begin to count anew in a new period; what is under way counts in both."""
        if self._period is None:
            self._begin(self._period_now(), spent)
        elif self._now() >= self._period.ends:
            self.close(spent)
            self._begin(self._period_now(), min(told, spent))

    def _begin(self, period: Period, base: Credits) -> None:
        """Join in a period, or come back to one, as clocks are set."""
        self._granted, self._room, self._looked = 0, self._terms.credits, -math.inf
        self._at_worst = None
        self._base = base - self._spent_in.get(period.name, 0)
        self.periods += 1
        self._period = period

    def _period_now(self) -> Period:
        return period_of(self._now(), self._terms.kind, self._terms.zone)

    def _now(self) -> datetime:
        """What time it is by the store's clock, as far as that is known."""
        return datetime.now(UTC) + self._ahead

    def _is_old(self) -> bool:
        """Whether what was set aside must be written again. One of the clocks stands still in sleep."""
        monotonic, wall = self._renewed
        age = max(time.monotonic() - monotonic, time.time() - wall)
        return age > self._times.renew


def _age(entry: Entry, now: datetime) -> float:
    """For how many seconds nothing was written there; 0 if the store does not say."""
    return (now - entry.written).total_seconds() if entry.written else 0.0
