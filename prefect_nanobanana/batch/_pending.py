"""Images that were paid for and are not in S3 yet, of all batches in a bucket."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from unicodedata import normalize

from prefect_nanobanana.batch._keys import check_batch
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._plan import BatchPlan
from prefect_nanobanana.batch._planned import Action, Planned
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.s3 import ObjectStore

WINDOW = 500
"""Records of one plan at most: so many, with what becomes of them, are in memory at once."""
READERS = ObjectStore.POOL_CONNECTIONS // 2
READ_AHEAD = 4 * READERS
"""Records that are read and not looked at yet, at most."""


def plan_pending(
    store: ObjectStore,
    since: datetime,
    batches: Collection[str] = (),
    asked_by: str | None = None,
    newest: dict[str, datetime] | None = None,
) -> Iterator[BatchPlan]:
    """Decide what to do with images that were paid and are not in S3, of several batches.

    Records are read as the plans are asked for, so that memory does not grow with their number.

    Args:
        store: Where the batches are.
        since: Records that were written before are left out.
        batches: The batches' names; all in the bucket's folder if there are none.
        asked_by: Goes into the records.
        newest: Is filled with when the newest record of each batch was written, by the batch's name.

    Returns:
        What to do, in plans of at most `WINDOW` prompts. Oldest first, as their URLs die first: plans by
        when records were written, and in each by when the API was asked. Nothing is asked for.

    Raises:
        InvalidInput: If one of `batches` cannot name a batch.
        BucketNotUsable: If the bucket does not let itself be read.
        LedgerError: If a record cannot be read.
    """
    wanted = {check_batch(name) for name in batches}
    listed = sorted(_listed(store, since, wanted))
    if newest is not None:
        newest.update((batch, datetime.fromtimestamp(at, UTC)) for at, batch, _ in listed)
    with ThreadPoolExecutor(READERS, thread_name_prefix="pending") as pool:
        ledgers: dict[str, Ledger] = {}
        owed = _owed(listed, lambda batch: Ledger(store, batch, asked_by), ledgers, pool)
        position = 1
        while window := list(islice(owed, WINDOW)):
            window.sort(key=lambda item: item[0].asked_at or datetime.min.replace(tzinfo=UTC))
            yield BatchPlan(
                tuple(_planned(n, *item) for n, item in enumerate(window, position)),
                Prices({}),
                max_credits=0,
            )
            position += len(window)
            # Nothing of it is held while the next are read: ledgers remember what they have read.
            del window
            ledgers.clear()


def _listed(
    store: ObjectStore, since: datetime, wanted: Collection[str]
) -> Iterator[tuple[float, str, str]]:
    """When each record in a bucket's folder was written, its batch, and its key."""
    root = store.key() + "/" if store.key() else ""
    names: dict[str, str] = {}
    for path, written, *_ in store.keys(root):
        match = re.fullmatch(r"(.+)/records/([0-9a-f]{24})\.json", path.removeprefix(root))
        if match is None or written < since:
            continue
        if not wanted or normalize("NFC", match[1]) in wanted:
            # One string for all records of a batch: many are listed.
            yield written.timestamp(), names.setdefault(match[1], match[1]), match[2]


def _owed(
    listed: Collection[tuple[float, str, str]],
    open_ledger: Callable[[str], Ledger],
    ledgers: dict[str, Ledger],
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[Record, Ledger]]:
    """Read records, a few ahead, and keep those that owe images; `ledgers` are those in use."""
    left, ahead = iter(listed), deque[Future[tuple[Record, Ledger] | None]]()
    while True:
        for _, batch, key in islice(left, READ_AHEAD - len(ahead)):
            if batch not in ledgers:
                ledgers[batch] = open_ledger(batch)
            ahead.append(pool.submit(_read, ledgers[batch], key))
        if not ahead:
            return
        if (found := ahead.popleft().result()) is not None:
            yield found
            found = None


def _read(ledger: Ledger, key: str) -> tuple[Record, Ledger] | None:
    record = ledger.read_again(key)
    if record is None or not (record.can_be_polled or (record.state == "generated" and record.missing)):
        return None
    return record, ledger


def _planned(position: int, record: Record, ledger: Ledger) -> Planned:
    action: Action = "await_end" if record.can_be_polled else "copy"
    return Planned(position, record, record.prompt, record.request, None, action, ledger)
