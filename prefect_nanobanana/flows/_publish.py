"""What a run leaves for people: report, manifest, gallery, artifacts and events."""

import logging
from collections.abc import Sequence
from typing import Any

from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE
from pydantic import ValidationError

from prefect_nanobanana.batch import Ledger, recorded_outcomes
from prefect_nanobanana.errors import LedgerError, StorageError
from prefect_nanobanana.flows._account import Account
from prefect_nanobanana.models import RunReport
from prefect_nanobanana.report import (
    GALLERY,
    MANIFEST,
    GalleryItem,
    build_report,
    events,
    publish_artifacts,
    publish_pages,
    summary,
)

_PUBLISHING: dict[str, Any] = {
    "name": "publish",
    "task_run_name": "publish",
    "retries": 0,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}

Logger = logging.Logger | logging.LoggerAdapter[Any]


def publish(
    items: Sequence[GalleryItem], keys: Sequence[str], ledger: Ledger, account: Account, logger: Logger
) -> RunReport:
    """Make the report of a run, and show it; what cannot be written is said, and fails nothing.

    Args:
        items: The outcomes, in the order of the list.
        keys: The keys of their records.
        ledger: The batch's.
        account: Who has paid.
        logger: Is told what cannot be written.

    Returns:
        The report.
    """
    store = ledger.store
    report = build_report(
        ledger.batch,
        len(items),
        [item.outcome for item in items],
        balance_before=account.before,
        balance_after=account.balance(),
        manifest_uri=store.uri(ledger.key(MANIFEST)),
        gallery_uri=store.uri(ledger.key(GALLERY)),
    )
    shown = [*items, *_earlier(items, keys, ledger, logger)]

    def write_pages() -> RunReport:
        written = publish_pages(report, shown, store, logger)
        if asset is not None:
            asset.add_metadata(written.model_dump(mode="json", exclude={"outcomes"}))
        return written

    asset = _asset(report, ledger) if report.images else None
    if asset is not None:
        written = materialize(asset, by="prefect-nanobanana", **_PUBLISHING)(write_pages)()
    else:
        written = write_pages()
    publish_artifacts(written, items, store, logger)
    events.run_finished(written, summary(written))
    return written


def refresh_pages(ledger: Ledger, logger: Logger) -> None:
    """Write a batch's manifest and gallery anew, from its records."""
    try:
        items = recorded_outcomes(ledger)
    except (StorageError, LedgerError) as error:
        logger.warning("The records of batch %r could not be read: %s", ledger.batch, error)
        return
    store = ledger.store
    report = build_report(
        ledger.batch,
        len(items),
        [item.outcome for item in items],
        balance_before=None,
        balance_after=None,
        manifest_uri=store.uri(ledger.key(MANIFEST)),
        gallery_uri=store.uri(ledger.key(GALLERY)),
    )
    publish_pages(report, items, store, logger)


def _earlier(
    items: Sequence[GalleryItem], keys: Sequence[str], ledger: Ledger, logger: Logger
) -> list[GalleryItem]:
    """What earlier lists of the batch left, so that manifest and gallery go on naming its images."""
    try:
        return recorded_outcomes(ledger, keys, first=len(items) + 1)
    except (StorageError, LedgerError) as error:
        logger.warning("The batch's other records could not be read: %s", error)
        return []


def _asset(report: RunReport, ledger: Ledger) -> Asset | None:
    """The batch as Prefect's catalogue of assets knows it."""
    try:
        properties = AssetProperties(
            name=report.batch, description=f"{report.images} images: {summary(report)}"
        )
        return Asset(key=ledger.store.uri(ledger.key()), properties=properties)
    except ValidationError:  # Prefect takes no such name, as one with spaces
        return None
