"""The main job: a list of prompts becomes pictures in S3, and every credit is accounted for."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from typing import Annotated, Literal, cast

from prefect import flow, get_run_logger
from prefect_aws import S3Bucket
from pydantic import Field

from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.flows._again import asked_again
from prefect_nanobanana.flows._approval import APPROVE_WITHIN_SECONDS, approved, refused_state
from prefect_nanobanana.flows._call import Call
from prefect_nanobanana.flows._days import of_this_day
from prefect_nanobanana.flows._logs import readable_logs
from prefect_nanobanana.flows._states import final_state, planned_state
from prefect_nanobanana.flows._work import Work
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import AskAgain, ImagePrompt, PromptTemplate, RunReport
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions

__all__ = ["generate_images"]

readable_logs()


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
    ask_again: list[AskAgain] = [],  # noqa: B006  # likewise
    storage: StorageOptions = StorageOptions(),  # noqa: B008  # frozen, and shown in the form
    dry_run: bool = False,
    approve_above: Annotated[int, Field(ge=0)] | None = None,
    approve_within_seconds: Annotated[int, Field(gt=0)] = APPROVE_WITHIN_SECONDS,
    budget: NanoBananaBudget | None = None,
    template: PromptTemplate | None = None,
    fallback_models: list[str] = [],  # noqa: B006  # likewise
    on_unknown: Literal["keep", "resend"] | None = None,
    retry_warnings: bool | None = None,
    retry_failed: bool | None = None,
) -> RunReport:
    """Have images made for a list of prompts, copy them to S3, and report what they cost.

    Args:
        prompts: The prompts, one per row: plain text, or a form with settings of its own.
        prompts_from: A .txt, .csv, .tsv, .json, .jsonl or .parquet file with more prompts: an s3://
            address, a web address, or a path on the machine that runs the flow.
        generator: The Nano Banana Generator block: which account pays, and how images are made.
        bucket: The S3 Bucket block to copy the images to.
        batch: The name of this piece of work, and its folder in the bucket. The same name again
            resumes it and pays for nothing twice. Empty for a new one, named after the day, the
            outermost run and what is asked: the same again when Prefect retries this run or one above.
        max_credits: The most that this run may spend, in credits, all attempts together where Prefect
            retries it or a run above. Empty for no bound.
        fail_on: What turns the run red: an error, also a warning of the safety check, or nothing.
        ask_again: What earlier runs of the batch have asked and this one asks, and pays, again: warnings
            (refused by the safety check), failed (paid, and failed), unknown (maybe paid, no answer).
        storage: How objects are stored, beyond what the bucket does by itself.
        dry_run: Say what it would cost, in the log and in the artifact `...-plan`, and spend nothing.
            What would be asked for counts as skipped.
        approve_above: If the run would cost more, in credits, it is suspended until a person approves
            it on its page in Prefect's UI, up to so many credits, or refuses it. Empty: nobody is asked.
        approve_within_seconds: A run that nobody has answered after so many seconds has failed.
        budget: The Nano Banana Budget block: what all runs that name it may spend together in a day, a
            week or a month. What does not fit any more is skipped. Empty for none.
        template: Makes prompts of texts with variables, as {product} on {desk}, of the list's columns or
            of every combination of a matrix. Empty: the prompts are as they are.
        fallback_models: The models that are asked, in this order, if one is retired or refuses a prompt,
            each at its own price: a refusal of the safety check is paid, too. Empty: none is.
        on_unknown: Deprecated: resend is `unknown` in ask_again.
        retry_warnings: Deprecated: `warnings` in ask_again.
        retry_failed: Deprecated: `failed` in ask_again.

    Returns:
        The report of the run.

    Raises:
        InvalidInput: If a prompt, file or parameter is wrong; nothing was spent.
        ApiError: If the account cannot be used; nothing was spent.
        StorageError: If the bucket cannot be used; nothing was spent.
        LedgerError: If a record cannot be read; nothing was spent.
        RunFailed: If `fail_on` turns the run red; it holds the report, and what was stored stays.
    """
    call = Call(
        prompts,
        prompts_from,
        generator,
        ObjectStore(bucket, storage),
        asked_again(ask_again, on_unknown, retry_warnings, retry_failed),
        max_credits,
        get_run_logger(),
        approve_above,
        budget,
        of_this_day(template),
        tuple(fallback_models),
    )
    if not dry_run:
        allowed = approved(call, batch, approve_within_seconds)
        if allowed is None:
            return cast(RunReport, refused_state())
        call = allowed
    work = Work.of_flow_run(call, batch, dry=dry_run)
    if dry_run:
        plan = work.plan()
        return cast(RunReport, planned_state(work.planned(), plan))
    report = work.finish()
    # The final state carries the message; a caller of the flow gets the report out of it.
    return cast(RunReport, final_state(report, fail_on))
