"""Publishes what `copy_pending` found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from prefect_nanobanana.credentials import NanoBananaCredentials
from prefect_nanobanana.errors import ApiError
from prefect_nanobanana.models import Charge, Credits, PendingReport
from prefect_nanobanana.report._account_page import account_credits
from prefect_nanobanana.report._artifacts import create_pending
from prefect_nanobanana.report._credits_page import create_account_credits
from prefect_nanobanana.report._published import ACCOUNT, Logger, published
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.statements import Statements


def publish_pending(
    report: PendingReport,
    store: ObjectStore,
    credentials: NanoBananaCredentials,
    newest: Mapping[str, datetime],
    charges_of: Callable[[str], Iterable[Charge] | None],
    logger: Logger,
) -> None:
    """Show in Prefect's UI what `copy_pending` found; what cannot be shown is logged.

    What killed runs have spent is counted, too: in batches whose records are newer than their statement.

    Args:
        report: What was found.
        store: Where the batches are.
        credentials: Whose account they were paid from.
        newest: When the newest record of each batch was written, by its name.
        charges_of: Reads what the requests of a batch have cost; None if that cannot be read.
        logger: Where to say what cannot be shown.
    """

    def show_account() -> None:
        behind = Statements(store, credentials.account).behind(newest)
        read = ((name, charges_of(name)) for name in behind)
        charges = ((name, its) for name, its in read if its is not None)
        found = account_credits(store, credentials.account, charges)
        create_account_credits(found, _balance(credentials))

    published(ACCOUNT, show_account, logger)
    published("artifact nanobanana-pending", lambda: create_pending(report), logger)


def _balance(credentials: NanoBananaCredentials) -> Credits | None:
    try:
        with credentials.get_client() as client:
            return client.credits()
    except ApiError:
        return None
