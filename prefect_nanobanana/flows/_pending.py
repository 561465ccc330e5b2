"""Images that were paid for and are not in S3 yet, of all batches in a bucket."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect_aws import S3Bucket
from pydantic import Field

from prefect_nanobanana.batch import Runner, plan_pending, recorded_outcomes
from prefect_nanobanana.errors import RunFailed
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copier
from prefect_nanobanana.models import URL_LIFETIME_DAYS, PendingReport
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
    store = ObjectStore(bucket, storage)
    since = datetime.now(UTC) - timedelta(days=days)
    plan = plan_pending(store, since, batches, str(flow_run.get_id()))
    ledgers = {planned.ledger.batch: planned.ledger for planned in plan.prompts}
    logger.info("%d generations owe images, in %d batches", len(plan.prompts), len(ledgers))
    hosts = generator.credentials.trusted_hosts
    with Copier.for_bucket(store, hosts, expected_images=plan.images) as copier:
        ended = Runner(generator, copier, logger).run(plan)
    for name in sorted(ledgers):
        publisher, items = Publisher(store, name, logger), recorded_outcomes(ledgers[name], logger)
        if items:
            publisher.publish_pages(publisher.report(items), items)
    lost = [each for each in ended if each.state == "lost"]
    waiting = [each for each in ended if each.state in ("generated", "submitted", "unknown")]
    report = PendingReport(
        batches=tuple(sorted(ledgers)),
        generations=len(ended),
        images=sum(each.new_images for each in ended),
        waiting=len(waiting),
        lost=len(lost),
        credits_lost=sum(each.credits_used for each in lost),
        messages=tuple(
            f"{each.batch}, {each.name!r}, {each.credits_used} credits: {each.item.outcome.message}"
            for each in (*lost, *waiting)
        ),
    )
    publish_pending(report, logger)
    return cast(PendingReport, _final_state(report))


def _final_state(report: PendingReport) -> Any:
    message = summary(report)
    if report.messages:
        return Failed(message=message, data=RunFailed(message, report))
    return Completed(message=message, data=report)
