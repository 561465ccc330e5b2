"""Keeps up what an account has spent over many runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.models import Charge
from prefect_nanobanana.report._credits_page import DAYS, AccountCredits
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.statements import Statements

Batches = Iterable[tuple[str, Iterable[Charge]]]


def account_credits(
    store: ObjectStore, account: str, batches: Batches, budget: Callable[[], str] | None = None
) -> AccountCredits:
    """Write the statements of some batches, and add up those of all.

    Args:
        store: Where the batches are.
        account: What tells accounts apart.
        batches: The names of batches, and what each has cost.
        budget: Says what is left of a budget.

    Raises:
        StorageError: If that cannot be read or written.
    """
    statements, today = Statements(store, account), datetime.now(UTC).date()
    for batch, charges in batches:
        statements.write(batch, charges)
    since = today - timedelta(days=DAYS - 1)
    rows = [row for row in statements.rows(since) if row.day <= today]
    place = store.uri(store.key()).rstrip("/")
    return AccountCredits(account, place, today, rows, balance=None, budget=_said(budget))


def _said(budget: Callable[[], str] | None) -> str | None:
    try:
        return budget() if budget is not None else None
    except StorageError:  # its books may be in another bucket, which the run has said before
        return None
