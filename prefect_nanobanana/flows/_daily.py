"""A batch a day: the same prompts, or the day's own, under the name of the day."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, cast
from zoneinfo import ZoneInfo

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect_aws import S3Bucket
from pydantic import Field

from prefect_nanobanana._common.text import counted, in_credits
from prefect_nanobanana._common.zones import find_zone
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.errors import InvalidInput, RunFailed
from prefect_nanobanana.flows._backfill import days_between, missing_days, run_days
from prefect_nanobanana.flows._call import Call
from prefect_nanobanana.flows._days import filled, on_day
from prefect_nanobanana.flows._images import generate_images
from prefect_nanobanana.flows._states import has_retries
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import ImagePrompt, PromptTemplate, RunReport
from prefect_nanobanana.report import summary
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions

__all__ = ["daily_images"]

# The run's name keeps automations from telling of one failure twice: see deployments/automations.py.
_IMAGES = generate_images.with_options(flow_run_name="images of {batch}")


@flow(name="daily_images", persist_result=False)
def daily_images(
    *,
    prompts: list[str | ImagePrompt] = [],  # noqa: B006  # the form shows it; nothing changes it
    prompts_from: str | None = None,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    prefix: str = "daily",
    day: date | None = None,
    time_zone: str = "Etc/UTC",
    max_credits: Annotated[int, Field(ge=0)] | None = None,
    fail_on: Literal["error", "warning", "never"] = "error",
    max_days_late: Annotated[int, Field(ge=0)] | None = 3,
    storage: StorageOptions = StorageOptions(),  # noqa: B008  # frozen, and shown in the form
    dry_run: bool = False,
    budget: NanoBananaBudget | None = None,
    template: PromptTemplate | None = None,
    fallback_models: list[str] = [],  # noqa: B006  # likewise
    from_day: date | None = None,
    to_day: date | None = None,
) -> RunReport | list[RunReport] | None:
    """Have the day's images made, as a batch named after the day, which is paid for once.

    The day is that for which the run was scheduled, not that on which it starts: a run that is late, or
    is run again with Retry, works on the same batch, and goes on where that stopped.

    Args:
        prompts: The prompts, one per row: plain text, or a form with settings of its own. {date} becomes
            the day as 2026-11-23, {weekday} Monday, {day} 23, {month} November, {year} 2026.
        prompts_from: A .txt, .csv, .tsv, .json, .jsonl or .parquet file with more prompts: an s3://
            address, a web address, or a path on the machine that runs the flow. {date} and the others
            are replaced in the address, not in the file.
        generator: The Nano Banana Generator block: which account pays, and how images are made.
        bucket: The S3 Bucket block to copy the images to.
        prefix: What the batches' names begin with: daily makes daily-2026-11-23.
        day: The day to run, or to run again, by hand. Empty for the day of the schedule.
        time_zone: Where it must be that day, as Europe/Berlin: that of the schedule.
        max_credits: The most that one run may spend, in credits. Empty for no bound.
        fail_on: What turns the run red: an error, also a warning of the safety check, or nothing.
        max_days_late: Scheduled runs that start more days after their day ask for nothing, so that a
            worker that was away for weeks does not pay for all of them at once. Empty for no bound.
        storage: How objects are stored, beyond what the bucket does by itself.
        dry_run: Say what it would cost, in the log and in the artifact `...-plan`, and spend nothing.
            What would be asked for counts as skipped.
        budget: The Nano Banana Budget block: what all runs that name it may spend together in a day, a
            week or a month. What does not fit any more is skipped. Empty for none.
        template: Makes prompts of texts with variables, also of those in the file: see docs/lists.md.
        fallback_models: The models that are asked, in this order, if one is retired or refuses a prompt,
            each at its own price: a refusal of the safety check is paid, too. Empty: none is.
        from_day: The first of several days to run, or to run again, by hand. All are planned first; then
            those on which something is missing are run, for max_credits together.
        to_day: The last of them. Empty for today.

    Returns:
        The report of the day's batch, or None if the run came too late; of several days, the reports of
        those on which something was missing.

    Raises:
        InvalidInput: If a prompt, file or parameter is wrong; nothing was spent.
        ApiError: If the account cannot be used; nothing was spent.
        StorageError: If the bucket cannot be used; nothing was spent.
        LedgerError: If a record cannot be read; nothing was spent.
        RunFailed: If `fail_on` turns the run red; it holds the report, and what was stored stays.
    """
    zone = _zone(time_zone)

    def settings_of(meant: date) -> dict[str, Any]:
        return {
            "prompts": [*prompts] if template else [_of_the_day(each, meant) for each in prompts],
            "prompts_from": filled(prompts_from, meant) if prompts_from else None,
            "generator": generator,
            "batch": f"{prefix}-{meant.isoformat()}",
            "budget": budget,
            "template": on_day(template, meant),
            "fallback_models": fallback_models,
        }

    def run(meant: date, most: int | None) -> RunReport:
        more: dict[str, Any] = {
            "bucket": bucket,
            "max_credits": most,
            "fail_on": fail_on,
            "storage": storage,
            "dry_run": dry_run,
        }
        return cast(RunReport, _IMAGES(**settings_of(meant), **more))

    today = datetime.now(UTC).astimezone(zone).date()
    scheduled = flow_run.get_scheduled_start_time().astimezone(zone).date()
    retried = flow_run.get_run_count() > 1
    if from_day is not None or to_day is not None:
        if day is not None:
            raise InvalidInput("day: a range is given, too: leave out day, or from_day and to_day")
        store, logger = ObjectStore(bucket, storage), get_run_logger()

        def call_of(meant: date) -> tuple[Call, str]:
            its = settings_of(meant)
            batch = its.pop("batch")
            its["fallback_models"] = tuple(fallback_models)
            return Call(
                **its,
                store=store,
                ask_again=frozenset(),
                max_credits=max_credits,
                logger=logger,
            ), batch

        days = days_between(from_day, to_day, min(scheduled, today))  # the same in each attempt
        missing = missing_days(days, f"{prefix}-{days[0]}-to-{days[-1]}", call_of)
        if dry_run:
            message = f"{counted(len(missing), 'day')} of {len(days)} would be run; nothing was spent"
            return cast(list[RunReport], Completed(message=message, data=list[RunReport]()))
        if retried:
            missing = days  # what went wrong is said again; what is paid is reused
        return cast(list[RunReport], _state_of(days, *run_days(missing, max_credits, run)))
    meant = day or scheduled
    late = (today - meant).days
    # Whoever names the day, or presses Retry, means it.
    by_hand = day is not None or retried
    if max_days_late is not None and late > max_days_late and not by_hand:
        message = f"nothing was asked: this run is for {meant}, {late} days ago"
        get_run_logger().warning("%s; give that day by hand to run it", message)
        return cast(None, Completed(message=message))
    try:
        report = run(meant, max_credits)
    except RunFailed as error:
        if has_retries():
            raise
        # Returned, not raised: the message is then the run's own words.
        return cast(RunReport, Failed(message=str(error), data=error))
    told = summary(report)
    if dry_run:
        told = (
            f"nothing spent: {report.skipped} of {counted(report.prompts, 'prompt')} would be asked for"
        )
    return cast(RunReport, Completed(message=told, data=report))


def _state_of(days: list[date], reports: list[RunReport], failures: list[RunFailed]) -> Any:
    """The state of a run for several days, with its reports."""
    credits = sum(report.credits_used for report in reports)
    skipped = sum(report.skipped for report in reports)
    message = f"{counted(len(days), 'day')}: {len(reports)} had something missing"
    message += f"; {in_credits(credits)} used" + (f", {skipped} skipped" if skipped else "")
    if not failures:
        return Completed(message=message, data=reports)
    if has_retries():
        raise failures[0]
    message += f"; {counted(len(failures), 'day')} failed, first: {failures[0]}"
    return Failed(message=message, data=failures[0])


def _zone(name: str) -> ZoneInfo:
    zone = find_zone(name)
    if zone is None:
        raise InvalidInput(f"time_zone: there is no {name!r}: use a name as Europe/Berlin or Etc/UTC")
    return zone


def _of_the_day(prompt: str | ImagePrompt, day: date) -> str | ImagePrompt:
    if isinstance(prompt, str):
        return filled(prompt, day)
    changes: dict[str, Any] = {"prompt": filled(prompt.prompt, day)}
    if prompt.name is not None:
        changes["name"] = filled(prompt.name, day)
    return prompt.model_copy(update=changes)
