"""Publishes what was found in all batches of a folder: by `copy_pending`, and by `apply_retention`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from prefect_nanobanana.credentials import NanoBananaCredentials
from prefect_nanobanana.errors import ApiError
from prefect_nanobanana.models import Charge, Credits, PendingReport, RetentionReport
from prefect_nanobanana.report._account_page import account_credits
from prefect_nanobanana.report._artifacts import create_pending
from prefect_nanobanana.report._credits_page import create_account_credits
from prefect_nanobanana.report._published import ACCOUNT, Logger, published
from prefect_nanobanana.report._retention_page import create_retention
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.statements import Statements


class FolderPublisher:
    """Shows in Prefect's UI what was found in a folder; what cannot be shown is logged.

    Args:
        store: The bucket and its folder.
        logger: Where to say what cannot be shown.
    """

    def __init__(self, store: ObjectStore, logger: Logger) -> None:
        self._store = store
        self._logger = logger

    def pending(
        self,
        report: PendingReport,
        credentials: NanoBananaCredentials,
        newest: Mapping[str, datetime],
        charges_of: Callable[[str], Iterable[Charge] | None],
    ) -> None:
        """Show what `copy_pending` found.

        What killed runs have spent is counted, too: in batches whose records are newer than their
        statement.

        Args:
            report: What was found.
            credentials: Whose account it was paid from.
            newest: When the newest record of each batch was written, by its name.
            charges_of: Reads what the requests of a batch have cost; None if that cannot be read.
        """

        def show_account() -> None:
            behind = Statements(self._store, credentials.account).behind(newest)
            read = ((name, charges_of(name)) for name in behind)
            charges = ((name, its) for name, its in read if its is not None)
            found = account_credits(self._store, credentials.account, charges)
            create_account_credits(found, _balance(credentials))

        published(ACCOUNT, show_account, self._logger)
        published("artifact nanobanana-pending", lambda: create_pending(report), self._logger)

    def retention(self, report: RetentionReport) -> None:
        """Show what batches hold, and what policies have done with it.

        Args:
            report: What was found.
        """
        place = self._store.uri(self._store.key())
        published("artifact retention", lambda: create_retention(report, place), self._logger)


def _balance(credentials: NanoBananaCredentials) -> Credits | None:
    try:
        with credentials.get_client() as client:
            return client.credits()
    except ApiError:
        return None
