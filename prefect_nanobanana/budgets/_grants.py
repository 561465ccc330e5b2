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

import json
import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import uuid4

from prefect_nanobanana._common.adjustable import Adjustable
from prefect_nanobanana._common.naming import slug
from prefect_nanobanana.budgets._entries import Entry, newest
from prefect_nanobanana.budgets._periods import Period, period_of
from prefect_nanobanana.budgets._terms import BudgetTerms
from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.models import Credits
from prefect_nanobanana.s3 import ObjectStore

PROMPTS_AHEAD = 60
"""For so many prompts credits are set aside at once, by three requests to the store."""
FOLDER = "nanobanana-budgets"
"""Below the folder of the bucket block; no batch is called that."""
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
    """

    def __init__(self, store: ObjectStore, terms: BudgetTerms, batch: str, settle: Settle) -> None:
        self._store = store
        self._terms = terms
        self._batch = batch
        self._settle = settle
        self._times = TIMES.get()
        self.process = uuid4().hex[:12]
        self._digits = sha256(batch.encode()).hexdigest()[:12]
        self._ahead = timedelta()
        self._period: Period | None = None
        self._entry: Entry | None = None
        self._base: Credits = 0
        self._granted: Credits = 0
        self._renewed = -math.inf
        self._room: Credits = terms.credits
        self._looked = -math.inf
        self._at_worst: list[Entry] | None = None

    def covers(self, total: Credits) -> bool:
        """Whether the process may have spent so much, in credits, with what it has been granted."""
        if self._period is None or time.monotonic() - self._renewed > self._times.renew:
            return False
        return total - self._base <= self._granted and self._now() < self._period.ends

    def could_cover(self, total: Credits) -> bool:
        """Whether the process could spend so much if nothing else of its own were under way."""
        return self._period is None or total - self._base <= self._room

    def extend(self, total: Credits, ahead: Credits, spent: Credits) -> bool:
        """Have more set aside.

        Args:
            total: What the process will have spent at most, in credits, since it began to count.
            ahead: What it would like to have besides, so that it need not ask for each request.
            spent: What it has spent so far, or may have: all but the request that this is about.

        Returns:
            Whether it may go on. If not, `left` says why.

        Raises:
            StorageError: If the books cannot be read or written; then nothing may be spent.
        """
        self._turn_over(spent)
        just_looked = time.monotonic() - self._looked < self._times.room
        if just_looked and math.ceil(total - self._base) > self._room:
            return False
        for _ in range(_TRIES):
            self._turn_over(spent)
            answer = self._try(math.ceil(total - self._base), ahead, spent)
            if answer is not None:
                return answer
            time.sleep(random.uniform(0, self._times.again))
        return False

    def close(self, spent: Credits) -> None:
        """Give back what was not spent.

        Args:
            spent: What the process has spent since it began to count, in credits, or may have.

        Raises:
            StorageError: If that cannot be written.
        """
        if self._entry is None:
            return
        self._granted = 0
        self._write(max(0, spent - self._base), closed=True)
        self._entry = None
        for entry in self._at_worst or ():  # what this run has found out may settle them
            self._settle_one(entry)

    def room(self) -> Credits:
        """What nobody has spent or set aside in this period, in credits.

        Raises:
            StorageError: If the books cannot be read.
        """
        self._period = self._period or period_of(self._now(), self._terms.kind, self._terms.zone)
        others = newest(self._listed()).values()
        return self._terms.credits - sum(entry.credits for entry in others)

    @property
    def left(self) -> str:
        """What is left, and until when, in words."""
        period = self._period or period_of(self._now(), self._terms.kind, self._terms.zone)
        own = self._entry.credits if self._entry else 0
        return self._terms.left(self._room - own, period)

    def _try(self, need: int, ahead: Credits, spent: Credits) -> bool | None:
        """Write, look, and keep what fits; None if it is worth trying again."""
        # Others of the process may use what it has at this moment: that becomes no less.
        least, known = max(need, self._granted), self._room
        wanted = least + max(0, math.floor(min(ahead, (known - least) / 4)))
        began = time.monotonic()
        entry = self._write(wanted)
        entries = self._listed()
        written = next((e.written for e in entries if e.key == entry.key), None)
        if written is not None and self._is_of_another_period(written):
            self.close(spent)
            self._period = period_of(written, self._terms.kind, self._terms.zone)
            return None
        others = self._settled(entries, written, need)
        self._room, self._looked = self._terms.credits - others, time.monotonic()
        if need > self._room:
            self._write(self._granted)
            # Somebody's wish may have gone too far, and is taken back at this moment.
            return None if self._room < known and need <= known else False
        if wanted > self._room:
            wanted = least + max(0, math.floor((self._room - least) / 4))
            self._write(wanted)
        self._granted, self._renewed = wanted, began
        return True

    def _write(self, credits: Credits, *, closed: bool = False) -> Entry:
        """Write the process's own entry, and remove the one before, if the store lets us."""
        former = self._entry
        number = former.number + 1 if former else 0
        entry = self._put(Entry(self._digits, self.process, number, credits, closed))
        self._entry = entry
        if former is not None:
            self._remove(former)
        return entry

    def _put(self, entry: Entry) -> Entry:
        key = self._key(entry.name)
        about = {"batch": self._batch, "credits": str(entry.credits), "closed": entry.closed}
        self._store.put(key, json.dumps(about).encode(), "application/json")
        return replace(entry, key=key)

    def _remove(self, entry: Entry) -> None:
        with suppress(StorageError):  # it counts no more, as there is a newer one
            self._store.remove(entry.key)

    def _key(self, name: str = "") -> str:
        assert self._period is not None
        return self._store.key(FOLDER, slug(self._terms.name), self._period.name, name)

    def _listed(self) -> list[Entry]:
        prefix = self._key() + "/"
        found = (
            Entry.read(each.key.removeprefix(prefix), each.key, each.written)
            for each in self._store.keys(prefix)
        )
        return [entry for entry in found if entry is not None]

    def _settled(self, entries: list[Entry], now: datetime | None, need: int) -> Credits:
        """What the others have, after those were settled that have died; in credits."""
        others = newest(entry for entry in entries if entry.process != self.process)
        total = sum(entry.credits for entry in others.values())
        ended = {e.process for e in others.values() if e.closed or _age(e, now) > self._times.dead}
        if self._at_worst is None:
            # Of this batch once: what became of its requests may have become known since.
            ours = (entry for entry in others.values() if entry.batch == self._digits)
            self._at_worst = [entry for entry in ours if entry.process in ended]
            for entry in self._at_worst:
                total -= entry.credits - self._settle_one(entry)
        for entry in others.values():  # of other batches if need be
            if total + need > self._terms.credits and entry.process in ended and not entry.closed:
                total -= entry.credits - self._settle_one(entry)
        return total

    def _settle_one(self, entry: Entry) -> Credits:
        """Write what a process that has ended has really spent; returns that, in credits."""
        try:
            found = self._store.find(entry.key)
            about = json.loads(found[0]) if found else {}
            spent = self._settle(str(about.get("batch", "")), entry.process)
            if spent is None or spent >= entry.credits:
                return entry.credits
            self._put(replace(entry, number=entry.number + 1, credits=spent, closed=True))
        except (StorageError, ValueError, AttributeError):
            return entry.credits  # at worst
        self._remove(entry)
        return spent

    def _turn_over(self, spent: Credits) -> None:
        """Begin to count anew in a new period; what is under way belongs to the one before."""
        now = self._now()
        if self._period is not None and now < self._period.ends:
            if self._entry is None:
                self._base = spent
            return
        self.close(spent)
        self._period = period_of(now, self._terms.kind, self._terms.zone)
        self._base, self._room, self._looked = spent, self._terms.credits, -math.inf
        self._at_worst = None

    def _is_of_another_period(self, written: datetime) -> bool:
        """Whether an entry is in the books of another period than the store's clock says."""
        self._ahead = written - datetime.now(UTC)
        return period_of(written, self._terms.kind, self._terms.zone) != self._period

    def _now(self) -> datetime:
        """What time it is by the store's clock, as far as that is known."""
        return datetime.now(UTC) + self._ahead


def _age(entry: Entry, now: datetime | None) -> float:
    """For how many seconds nothing was written there; 0 if the store does not say."""
    return (now - entry.written).total_seconds() if now and entry.written else 0.0
