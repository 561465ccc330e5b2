"""Gallery and manifest of batches, written anew of their records."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from typing import cast
from unicodedata import normalize

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed
from prefect_aws import S3Bucket

from prefect_nanobanana._common.text import visible
from prefect_nanobanana.batch import Ledger, recorded_outcomes
from prefect_nanobanana.errors import InvalidInput, LedgerError, StorageError
from prefect_nanobanana.flows._call import Logger
from prefect_nanobanana.manifest import list_batches
from prefect_nanobanana.report import GalleryItem, Publisher
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions


@flow(name="publish_batches", persist_result=False)
def publish_batches(
    *,
    bucket: S3Bucket,
    batches: list[str] = [],  # noqa: B006  # the form shows it; nothing changes it
    storage: StorageOptions = StorageOptions(),  # noqa: B008  # frozen, and shown in the form
) -> list[str]:
    """Write gallery page and manifest of batches anew, of their records. Costs no credits.

    It brings manifests of earlier versions up to date, and shows what killed and stopped runs have made.
    Prompts that were never asked have no record, and are left out.
    Run it while no other run works on the batches: that one publishes them at its own end.

    Args:
        bucket: The S3 Bucket block in which the batches are.
        batches: The names of the batches. Empty for all in the bucket's folder.
        storage: How objects are stored, beyond what the bucket does by itself: as for the batches.

    Returns:
        The names of the batches, whose pages are written.

    Raises:
        InvalidInput: If the bucket's folder has no batch of that name.
        StorageError: If the bucket cannot be used, or, after all others, a batch cannot be published.
    """
    logger = get_run_logger()
    store = ObjectStore(bucket, storage)
    names = _names(store, batches)
    failed = [name for name in names if not publish_recorded(store, name, logger)]
    written = [name for name in names if name not in failed]
    message = f"gallery and manifest of {len(written)} of {len(names)} batches written"
    if failed:
        message += f"; the log says why not of {', '.join(map(visible, failed[:20]))}"
        return cast(list[str], Failed(message=message, data=StorageError(message)))
    return cast(list[str], Completed(message=message, data=written))


def publish_recorded(store: ObjectStore, batch: str, logger: Logger) -> bool:
    """Write gallery and manifest of a batch, of its records.

    Returns:
        Whether all of it is written; what is not was logged.
    """
    recorded = recorded_outcomes(Ledger(store, batch), logger)
    if recorded is None or not recorded.items:
        return recorded is not None
    publisher = Publisher(store, batch, logger)
    report = publisher.publish_again(publisher.report(recorded.items), recorded.items)
    return not report.unpublished


def recorded_items(ledger: Ledger, logger: Logger) -> list[GalleryItem]:
    """The outcomes of a batch that must be there, of its records.

    Raises:
        InvalidInput: If there is no such batch.
        LedgerError: If the records cannot be read.
    """
    recorded = recorded_outcomes(ledger, logger)
    if recorded is None:
        raise LedgerError(f"the records of batch {ledger.batch!r} could not be read: see the log")
    if not recorded.items:
        raise InvalidInput(f"batch: there is no batch {ledger.batch!r} in {ledger.store.uri('')}")
    return recorded.items


def _names(store: ObjectStore, wanted: list[str]) -> list[str]:
    there = [batch.name for batch in list_batches(store) if batch.records]
    if not wanted:
        return there
    known = {normalize("NFC", name): name for name in there}
    missing = [name for name in wanted if normalize("NFC", name.strip()) not in known]
    if missing:
        raise InvalidInput(
            *(
                f"batches: there is no batch {name!r} in {store.uri(store.key())}"
                for name in missing[:10]
            )
        )
    return [known[normalize("NFC", name.strip())] for name in wanted]
