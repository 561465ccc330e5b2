"""Images that were paid for and are not in S3 yet, of all batches in a bucket."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from unicodedata import normalize

from prefect_nanobanana.batch._keys import check_batch
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._plan import Plan, Planned
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.s3 import ObjectStore


def plan_pending(
    store: ObjectStore, since: datetime, batches: Collection[str] = (), asked_by: str | None = None
) -> Plan:
    """Decide what to do with images that were paid and are not in S3, of several batches.

    Args:
        store: Where the batches are.
        since: Records that were written before are left out.
        batches: The batches' names; all in the bucket's folder if there are none.
        asked_by: Goes into the records.

    Returns:
        What to do, oldest first, as their URLs die first. Nothing is asked for.

    Raises:
        InvalidInput: If one of `batches` cannot name a batch.
        BucketNotUsable: If the bucket does not let itself be read.
        LedgerError: If a record cannot be read.
    """
    owed = [
        (record, ledger)
        for ledger, keys in _ledgers(store, since, batches, asked_by)
        for record in ledger.read(keys).values()
        if record.can_be_polled or (record.state == "generated" and record.missing)
    ]
    owed.sort(key=lambda item: item[0].asked_at or datetime.min.replace(tzinfo=UTC))
    planned = (
        Planned(
            position,
            record,
            record.prompt,
            record.request,
            None,
            "await_end" if record.can_be_polled else "copy",
            ledger,
        )
        for position, (record, ledger) in enumerate(owed, 1)
    )
    return Plan(tuple(planned), Prices({}), max_credits=0)


def _ledgers(
    store: ObjectStore, since: datetime, batches: Collection[str], asked_by: str | None
) -> Iterator[tuple[Ledger, list[str]]]:
    """Find the ledgers in a bucket's folder, and the keys of their records."""
    wanted = {check_batch(name) for name in batches}
    root = store.key() + "/" if store.key() else ""
    found: dict[str, list[str]] = {}
    for path, written, _ in store.keys(root):
        match = re.fullmatch(r"(.+)/records/([0-9a-f]{24})\.json", path.removeprefix(root))
        if match is None or written < since:
            continue
        if not wanted or normalize("NFC", match[1]) in wanted:
            found.setdefault(match[1], []).append(match[2])
    for name, keys in found.items():
        yield Ledger(store, name, asked_by), keys
