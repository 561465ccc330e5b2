"""Images that were paid for and are not in S3 yet, of all batches in a bucket."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect_aws import S3Bucket
from pydantic import Field

from prefect_nanobanana.batch import Ledger, Runner, plan_pending, recorded_outcomes
from prefect_nanobanana.errors import RunFailed
from prefect_nanobanana.flows._publish import publish_recorded
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copier
from prefect_nanobanana.models import URL_LIFETIME_DAYS, Charge, Credits, PendingReport
from prefect_nanobanana.report import FolderPublisher, summary
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions

MOST_MESSAGES = 1_000
"""Generations that are named in the report at most; the rest is counted."""


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
    hosts, tally, newest = generator.credentials.trusted_hosts, _Tally(), dict[str, datetime]()
    for plan in plan_pending(store, since, batches, str(flow_run.get_id()), newest):
        with Copier.for_bucket(store, hosts, expected_images=plan.images) as copier:
            tally.add(Runner(generator, copier, logger).run(plan))
        logger.info("%d generations that owed images have been looked at", tally.generations)
    for name in tally.batches:
        publish_recorded(store, name, logger)
    report = tally.report()
    newest |= dict.fromkeys(tally.batches, datetime.now(UTC))

    def charges_of(batch: str) -> list[Charge] | None:
        recorded = recorded_outcomes(Ledger(store, batch), logger)
        return None if recorded is None else recorded.charges

    FolderPublisher(store, logger).pending(report, generator.credentials, newest, charges_of)
    return cast(PendingReport, _final_state(report))


class _Tally:
    """Adds up what became of the generations, which are many."""

    def __init__(self) -> None:
        self.generations = 0
        self._batches: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._credits_lost: Credits = 0
        self._lost: list[str] = []
        self._waiting: list[str] = []

    @property
    def batches(self) -> tuple[str, ...]:
        """In which images were owed."""
        return tuple(sorted(self._batches))

    def add(self, ended: Sequence[Any]) -> None:
        """Count the ends of a plan."""
        for each in ended:
            self.generations += 1
            self._batches.add(each.batch)
            self._counts["images"] += each.new_images
            if each.state == "lost":
                self._counts["lost"] += 1
                self._credits_lost += each.credits_used
                self._keep(self._lost, each)
            elif each.state in ("generated", "submitted", "unknown"):
                self._counts["waiting"] += 1
                self._keep(self._waiting, each)

    def report(self) -> PendingReport:
        """What was found, and what became of it."""
        return PendingReport(
            batches=self.batches,
            generations=self.generations,
            images=self._counts["images"],
            waiting=self._counts["waiting"],
            lost=self._counts["lost"],
            credits_lost=self._credits_lost,
            messages=(*self._lost, *self._waiting)[:MOST_MESSAGES],
        )

    def _keep(self, messages: list[str], each: Any) -> None:
        if len(messages) < MOST_MESSAGES:
            messages.append(
                f"{each.batch}, {each.name!r}, {each.credits_used} credits: {each.item.outcome.message}"
            )


def _final_state(report: PendingReport) -> Any:
    message = summary(report)
    if report.lost or report.waiting:
        return Failed(message=message, data=RunFailed(message, report))
    return Completed(message=message, data=report)
