"""Keeping house: what the batches hold, and what policies move away or delete."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from typing import cast

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect_aws import S3Bucket

from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.flows._retention_steps import RetentionSteps
from prefect_nanobanana.manifest import list_batches
from prefect_nanobanana.models import RetentionPolicy, RetentionReport
from prefect_nanobanana.report import FolderPublisher, summary
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions


@flow(name="apply_retention", persist_result=False)
def apply_retention(
    *,
    bucket: S3Bucket,
    policies: list[RetentionPolicy] = [],  # noqa: B006  # the form shows it; nothing changes it
    dry_run: bool = True,
    storage: StorageOptions = StorageOptions(),  # noqa: B008  # frozen, and shown in the form
) -> RetentionReport:
    """List batches with what they hold, and move or delete images that policies name. Costs no credits.

    Only images are touched that a record names, and that are what it says. Records, manifests, pages
    and copies in picked/ stay, so that no batch is ever paid for again. Each image that goes is written
    into the batch's removed.jsonl, and into its manifest.

    Args:
        bucket: The S3 Bucket block in which the batches are.
        policies: What goes, and when. Without any, batches are listed.
        dry_run: Whether to say what would go, and change nothing.
        storage: How objects are stored, beyond what the bucket does by itself: as for the batches.

    Returns:
        What there is, and what went.

    Raises:
        StorageError: If the bucket cannot be used, or, after all others, if a batch is not as its
            records say, or what a policy names cannot be moved or deleted.
    """
    logger = get_run_logger()
    store = ObjectStore(bucket, storage)
    steps = RetentionSteps(store, policies, dry_run, flow_run.get_id(), logger)
    report = steps.apply([batch for batch in list_batches(store) if batch.records])
    FolderPublisher(store, logger).retention(report)
    message = summary(report)
    if report.problems:
        return cast(RetentionReport, Failed(message=message, data=StorageError(message)))
    return cast(RetentionReport, Completed(message=message, data=report))
