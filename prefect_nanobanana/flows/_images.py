"""The main job: a list of prompts becomes pictures in S3, and every credit is accounted for."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from typing import Annotated, Any, Literal, cast

from prefect import flow, get_run_logger
from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect_aws import S3Bucket
from pydantic import Field, ValidationError

from prefect_nanobanana.batch import (
    CEILING_REACHED,
    SETTLE_AFTER_SECONDS,
    Again,
    Budget,
    Job,
    Ledger,
    Run,
    check_batch,
    gather_prompts,
    make_outcome,
    outcome_of_record,
    plan,
)
from prefect_nanobanana.errors import ApiError, LedgerError, RunFailed, StorageError
from prefect_nanobanana.flows._batch_name import default_batch_name
from prefect_nanobanana.flows._pending import copy_pending
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copier
from prefect_nanobanana.models import (
    Credits,
    ImagePrompt,
    RunReport,
)
from prefect_nanobanana.report import (
    GALLERY,
    MANIFEST,
    GalleryItem,
    LiveArtifact,
    artifact_key,
    build_report,
    events,
    one_line_per_prompt,
    publish_artifacts,
    publish_pages,
    summary,
)
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions

__all__ = ["copy_pending", "generate_images"]

_PUBLISHING: dict[str, Any] = {
    "name": "publish",
    "task_run_name": "publish",
    "retries": 0,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}

one_line_per_prompt()


@flow(name="generate_images", persist_result=False)
def generate_images(
    *,
    prompts: list[str | ImagePrompt] = [],  # noqa: B006  # the form shows it; nothing changes it
    prompts_from: str | None = None,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    batch: str | None = None,
    max_credits: Annotated[int, Field(ge=0)] | None = None,
    fail_on: Literal["error", "warning", "never"] = "error",
    on_unknown: Literal["keep", "resend"] = "keep",
    retry_warnings: bool = False,
    retry_failed: bool = False,
    storage: StorageOptions = StorageOptions(),  # noqa: B008  # frozen, and shown in the form
) -> RunReport:
    """Have images made for a list of prompts, copy them to S3, and report what they cost.

    Args:
        prompts: The prompts, one per row: plain text, or a form with settings of its own.
        prompts_from: A .txt, .csv or .jsonl file with more prompts: a path on the machine that runs the
            flow, an s3:// address, or a web address.
        generator: The Nano Banana Generator block: which account pays, and how images are made.
        bucket: The S3 Bucket block to copy the images to.
        batch: The name of this piece of work, and its folder in the bucket. The same name again
            resumes it and pays for nothing twice. Empty for a new one.
        max_credits: The most that this run may spend, in credits. Empty for no bound.
        fail_on: What turns the run red: an error, also a warning of the safety check, or nothing.
        on_unknown: What to do with requests that were maybe paid and have no answer: keep them as they
            are, or send them again, which may pay twice.
        retry_warnings: Whether to ask again, and pay again, for what the safety check has refused.
        retry_failed: Whether to ask again, and pay again, for what was paid and has failed.
        storage: How objects are stored, beyond what the bucket does by itself.

    Returns:
        The report of the run.

    Raises:
        InvalidInput: If a prompt, file or parameter is wrong; nothing was spent.
        ApiError: If the account cannot be used; nothing was spent.
        StorageError: If the bucket cannot be used; nothing was spent.
        LedgerError: If a record cannot be read; nothing was spent.
        RunFailed: If `fail_on` turns the run red; it holds the report, and what was stored stays.
    """
    logger = get_run_logger()
    opened = ObjectStore(bucket, storage)
    run_id = str(flow_run.get_id())
    if batch is not None and batch.strip():
        name = check_batch(batch)
    else:
        name = default_batch_name(
            *(prompts, prompts_from, generator, opened.uri(opened.key())),
            has_records=lambda batch: (
                next(opened.keys(opened.key(batch, "records") + "/"), None) is not None
            ),
        )
    listed = gather_prompts(prompts, prompts_from, opened.read_uri)
    ledger = Ledger(opened, name, run_id)
    with generator.credentials.get_client() as client:
        models = {model.name: model for model in client.models()}
        before = client.credits()
    generator.credentials.slots.prepare()
    again = Again(
        warnings=retry_warnings,
        failed=retry_failed,
        unknown=on_unknown == "resend",
        in_flight_seconds=max(SETTLE_AFTER_SECONDS, generator.credentials.request_timeout_seconds),
        flow_run=run_id,
    )
    jobs = plan(listed, generator, models, ledger, max_credits, again, logger)
    to_ask = sum(job.to_ask for job in jobs)
    # Task runs of many prompts begin at once, and Prefect's server then answers leases late.
    generator.credentials.slots.prepare(to_ask)
    logger.info(
        "Batch %r: %d prompts, %d to ask for; the account has %s credits",
        *(name, len(jobs), to_ask, before),
    )
    with (
        Copier(opened, generator.credentials.trusted_hosts) as copier,
        LiveArtifact(artifact_key(name, "progress"), logger) as live,
    ):
        run = Run(
            *(jobs, generator, copier, Budget(max_credits), logger),
            balance=before,
            resend=again.unknown,
            watcher=live,
        )
        told = run.go()
    report = build_report(
        name,
        len(listed),
        [item.outcome for item in told],
        balance_before=before,
        balance_after=_balance(generator, logger),
        manifest_uri=opened.uri(opened.key(name, MANIFEST)),
        gallery_uri=opened.uri(opened.key(name, GALLERY)),
    )
    report = _publish(report, told + _earlier(jobs, ledger, logger), opened, logger)
    events.run_finished(report, summary(report))
    credentials, left = generator.credentials, report.remaining_credits
    if left is not None and left < credentials.low_credits:
        events.credits_low(credentials.account, name, left, credentials.low_credits)
    # The final state carries the message; a caller of the flow gets the report out of it.
    return cast(RunReport, _final_state(report, fail_on))


def _has_records(bucket: ObjectStore, batch: str) -> bool:
    return any(True for _ in bucket.keys(bucket.key(batch, "records") + "/"))


def _balance(generator: NanoBananaGenerator, logger: Any) -> Credits | None:
    try:
        with generator.credentials.get_client() as client:
            return client.credits()
    except ApiError as error:
        logger.warning("The account's balance could not be read: %s", error)
        return None


def _earlier(jobs: list[Job], ledger: Ledger, logger: Any) -> list[GalleryItem]:
    """What earlier lists of the batch left, so that manifest and gallery go on naming its images."""
    try:
        records = ledger.read_others([job.record.key for job in jobs])
    except (StorageError, LedgerError) as error:
        logger.warning("The batch's other records could not be read: %s", error)
        return []
    kept = [record for record in records.values() if not record.safe_to_send]
    return [
        make_outcome(position, record, *outcome_of_record(record, None), reused=True)
        for position, record in enumerate(kept, len(jobs) + 1)
    ]


def _publish(report: RunReport, told: list[GalleryItem], bucket: ObjectStore, logger: Any) -> RunReport:
    """Write manifest, gallery and artifacts; what cannot be written is said, and fails nothing."""

    def publish() -> RunReport:
        written = publish_pages(report, told, bucket, logger)
        if asset is not None:
            asset.add_metadata(written.model_dump(mode="json", exclude={"outcomes"}))
        return written

    asset = _asset(report, bucket) if report.images else None
    if asset is not None:
        task = materialize(asset, by="prefect-nanobanana", **_PUBLISHING)(publish)
        report = task()
    else:
        report = publish()
    publish_artifacts(report, told[: report.prompts], bucket, logger)
    return report


def _asset(report: RunReport, bucket: ObjectStore) -> Asset | None:
    """The batch as Prefect's catalogue of assets knows it."""
    try:
        properties = AssetProperties(
            name=report.batch, description=f"{report.images} images: {summary(report)}"
        )
        return Asset(key=bucket.uri(bucket.key(report.batch)), properties=properties)
    except ValidationError:  # Prefect takes no such name, as one with spaces
        return None


def _has_retries() -> bool:
    """Whether Prefect retries this run. It retries what is raised, not a state that is returned."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return run is not None and bool(run.empirical_policy.retries)


def _final_state(report: RunReport, fail_on: str) -> Any:
    message = summary(report)
    wrong = report.failed + report.unknown
    wrong += sum(o.status == "skipped" and o.message != CEILING_REACHED for o in report.outcomes)
    if fail_on == "warning":
        wrong += report.warnings
    if fail_on != "never" and wrong:
        first = next(
            (o.message for o in report.outcomes if o.status in ("failed", "unknown", "skipped")), None
        )
        if first:
            message += f"; first: {first}"
        if _has_retries():
            raise RunFailed(message, report)
        return Failed(message=message, data=RunFailed(message, report))
    return Completed(message=message, data=report)
