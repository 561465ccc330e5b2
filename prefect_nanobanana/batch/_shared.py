"""What another process has spent of a shared budget, by the records of its batch."""

from __future__ import annotations

import time

from prefect_nanobanana.batch._charges import charges_before
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._spending import Spending, spending_of, with_charges
from prefect_nanobanana.errors import LedgerError, StorageError
from prefect_nanobanana.models import Credits
from prefect_nanobanana.s3 import ObjectStore

_FRESH_SECONDS = 10.0
"""Several processes of one batch are settled by one reading of its records."""


class SpentByRecords:
    """Says what a process has spent, for a shared budget to count.

    Args:
        store: Where batches are; of others nothing can be said.
        prices: What requests cost whose answers nobody has seen.
    """

    def __init__(self, store: ObjectStore, prices: Prices) -> None:
        self._store = store
        self._prices = prices
        self._read: tuple[str, float, list[Record], Prices] | None = None

    def __call__(self, batch: str, process: str) -> Credits | None:
        """What a process has spent at most.

        Args:
            batch: The address of the batch that it works, or worked, on.
            process: What the attempts of its requests begin with.

        Returns:
            In credits; None if nobody can say.
        """
        root = self._store.address(self._store.key()).rstrip("/") + "/"
        if not batch.startswith(root):
            return None
        try:
            records, prices = self._records(batch, batch.removeprefix(root))
        except (StorageError, LedgerError):
            return None
        spent: Credits = 0
        for record in records:
            if (record.attempt or "").startswith(f"{process}-"):
                price = prices.of(record.request)
                if record.open and price is None:
                    return None
                spent += spending_of(record, price).worst
            before = [c for c in charges_before(record) if c.attempt is not None]
            own = [c for c in before if (c.attempt or "").startswith(f"{process}-")]
            spent += with_charges(Spending(), own).worst
            # What nobody noted of requests before may have been the process's, too.
            told = with_charges(Spending(), before).worst
            at_most = max(record.credits_before, sum((record.paid_by or {}).values()))
            spent += max(0, at_most - told)
        return spent if records else None

    def _records(self, batch: str, name: str) -> tuple[list[Record], Prices]:
        known, now = self._read, time.monotonic()
        if known is None or known[0] != batch or now - known[1] > _FRESH_SECONDS:
            found = [*Ledger(self._store, name).read_others(()).values()]
            self._read = known = (batch, now, found, self._prices.told_by(found))
        return known[2:]
