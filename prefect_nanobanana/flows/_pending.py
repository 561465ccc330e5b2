"""Images that were paid for and are not in S3 yet, of all batches in a bucket."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect_aws import S3Bucket
from pydantic import Field

from prefect_nanobanana._common.task_names import run_name
from prefect_nanobanana.batch import (
    URL_LIFETIME_DAYS,
    Budget,
    Job,
    Ledger,
    Record,
    Run,
    batches_with_records,
    check_batch,
    make_outcome,
    outcome_of_record,
)
from prefect_nanobanana.errors import (
    ImageNotCopied,
    LedgerError,
    NanoBananaError,
    RunFailed,
    StorageError,
)
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copier
from prefect_nanobanana.models import PendingReport
from prefect_nanobanana.report import Publisher, publish_pending, summary
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions


@flow(name="copy_pending", persist_result=False)
def copy_pending(
    *,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    batches: list[str] = [],  # noqa: B006  # the form shows it; nothing changes it
    days: Annotated[int, Field(ge=URL_LIFETIME_DAYS + 1)] = 2 * URL_LIFETIME_DAYS,
    storage: StorageOptions = StorageOptions(),  # noqa: B008  # frozen, and shown in the form
) -> PendingReport:
    """Copy images that were paid for and never reached S3, before their URLs die. Costs no credits.

    Args:
        generator: The Nano Banana Generator block, whose account can be asked for generations that were
            still running when their run ended.
        bucket: The S3 Bucket block in which the batches are.
        batches: The names of the batches. Empty for all in the bucket's folder.
        days: Records that were last written longer ago are not looked at. The API's image URLs die
            after 15 days.
        storage: How objects are stored, beyond what the bucket does by itself: as for the batches.

    Returns:
        What was found, and what became of it.

    Raises:
        StorageError: If the bucket cannot be used.
        LedgerError: If a record cannot be read.
        RunFailed: If images still wait or are lost; it holds the report, and what was copied stays.
    """
    logger = get_run_logger()
    opened = ObjectStore(bucket, storage)
    wanted = {check_batch(name) for name in batches}
    found = batches_with_records(opened, datetime.now(UTC) - timedelta(days=days))
    ledgers = {
        name: Ledger(opened, name, str(flow_run.get_id()))
        for name in found
        if not wanted or name in wanted
    }
    owed = [
        (name, record)
        for name, ledger in ledgers.items()
        for record in ledger.read(found[name]).values()
        if record.can_be_polled or (record.state == "generated" and record.missing)
    ]
    # Oldest first: their URLs die first.
    owed.sort(key=lambda item: item[1].asked_at or datetime.min.replace(tzinfo=UTC))
    jobs = [Job(n, record, None, ledgers[name]) for n, (name, record) in enumerate(owed, 1)]
    logger.info("%d generations owe images, in %d batches", len(jobs), len({name for name, _ in owed}))
    before = sum(len(job.record.images) for job in jobs)
    with Copier(opened, generator.credentials.trusted_hosts) as copier:
        Run(jobs, generator, copier, Budget(0), logger).go()
    lost = [job for job in jobs if _is_lost(job)]
    for job in lost:
        _say_lost(job, logger)
    for name in sorted({name for name, _ in owed}):
        _refresh(ledgers[name], logger)
    waiting = [job for job in jobs if job.record.state in ("generated", "submitted", "unknown")]
    report = PendingReport(
        batches=tuple(sorted({name for name, _ in owed})),
        generations=len(jobs),
        images=sum(len(job.record.images) for job in jobs) - before,
        waiting=len(waiting),
        lost=len(lost),
        credits_lost=sum(job.record.credits_used for job in lost),
        messages=tuple(_line(job) for job in [*lost, *waiting]),
    )
    return cast(PendingReport, _final_state(report, logger))


def _is_lost(job: Job) -> bool:
    """Whether what is missing can no longer be had: its URLs are old, and their host has said so."""
    record = job.record
    if record.state != "generated" or not job.copy_errors or record.asked_at is None:
        return False
    age = datetime.now(UTC) - record.asked_at
    gone = all(isinstance(error, ImageNotCopied) and error.gone for error in job.copy_errors)
    return age > timedelta(days=URL_LIFETIME_DAYS) and gone


def _say_lost(job: Job, logger: Any) -> None:
    job.record.state = "lost"
    job.record.message = (
        f"paid, but {len(job.record.missing)} images were not copied within {URL_LIFETIME_DAYS} days, "
        f"and are lost: {job.copy_errors[0]}"
    )
    logger.error("%s", _line(job))
    try:
        job.ledger.write(job.record)
    except NanoBananaError as error:
        logger.error("That could not be recorded: %s", error)


def _line(job: Job) -> str:
    record = job.record
    text = run_name(record.prompt.name or record.prompt.prompt)
    _, why = outcome_of_record(record, None)
    return f"{job.ledger.batch}, {text!r}, {record.credits_used} credits: {why}"


def _refresh(ledger: Ledger, logger: Any) -> None:
    """Write the batch's manifest and gallery anew, from its records."""

    def place(record: Record) -> tuple[int, str]:
        return record.position or 10**9, record.key

    try:
        records = sorted(ledger.read_others(()).values(), key=place)
    except (StorageError, LedgerError) as error:
        logger.warning("The records of batch %r could not be read: %s", ledger.batch, error)
        return
    told = [
        make_outcome(position, record, *outcome_of_record(record, None), reused=True)
        for position, record in enumerate(records, 1)
    ]
    publisher = Publisher(ledger.bucket, ledger.batch, logger)
    publisher.publish_pages(publisher.report(told), told)


def _final_state(report: PendingReport, logger: Any) -> Any:
    publish_pending(report, logger)
    message = summary(report)
    if report.messages:
        return Failed(message=message, data=RunFailed(message, report))
    return Completed(message=message, data=report)
