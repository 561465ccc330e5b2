"""A batch in parts: each one a flow run of its own, wherever a work pool has it run."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

import hashlib
import json
from typing import Annotated, Any, Literal, cast

from prefect import flow, get_run_logger
from prefect.blocks.core import Block
from prefect.states import Completed, Failed
from prefect_aws import S3Bucket
from pydantic import Field
from pydantic_core import PydanticSerializationError

from prefect_nanobanana._common.runs_above import attempts, runs_above
from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.flows._approval import APPROVE_WITHIN_SECONDS, approved, refused_state
from prefect_nanobanana.flows._batch_name import is_retried
from prefect_nanobanana.flows._call import Call
from prefect_nanobanana.flows._days import of_this_day
from prefect_nanobanana.flows._part_runs import REFUSED, PartRuns, check_size
from prefect_nanobanana.flows._states import final_state, planned_state
from prefect_nanobanana.flows._work import Work
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import AskAgain, ImagePrompt, Part, PromptTemplate, RunReport
from prefect_nanobanana.report import summary
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions

__all__ = ["generate_in_parts", "generate_part"]


@flow(name="generate_in_parts", persist_result=False)
def generate_in_parts(
    *,
    prompts: list[str | ImagePrompt] = [],  # noqa: B006  # the form shows it; nothing changes it
    prompts_from: str | None = None,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    batch: str | None = None,
    parts: Annotated[int, Field(ge=1, le=64)] = 2,
    deployment: str = "generate_part/part",
    start_within_seconds: Annotated[float, Field(gt=0)] = 600,
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
) -> RunReport:
    """Have images made for a list of prompts by several flow runs, as generate_images does by one.

    The parts share the batch's records, the account's slots and the ceiling. When all have ended, this
    run asks for what they left, and publishes one report, manifest and gallery. Whatever is killed
    meanwhile: the same call again, or Retry, finishes the rest and pays for nothing twice.

    Args:
        prompts: The prompts, one per row: plain text, or a form with settings of its own.
        prompts_from: A .txt, .csv, .tsv, .json, .jsonl or .parquet file with more prompts: an s3://
            address, a web address, or a path that leads to the same file wherever a part runs.
        generator: The Nano Banana Generator block, saved: which account pays, and how images are made.
        bucket: The S3 Bucket block, saved: where the images go.
        batch: The name of this piece of work, and its folder in the bucket. The same name again
            resumes it and pays for nothing twice. Empty for a new one, as for generate_images.
        parts: How many flow runs share the work, 1 to 64.
        deployment: The deployment of generate_part that they are runs of.
        start_within_seconds: A part that no worker has taken up after so many seconds is cancelled,
            and this run does its work.
        max_credits: The most that all of them may spend together, in credits, all attempts together
            where Prefect retries. Empty for no bound.
        fail_on: What turns the run red: an error, also a warning of the safety check, or nothing.
        ask_again: What earlier runs of the batch have asked and this one asks, and pays, again: warnings
            (refused by the safety check), failed (paid, and failed), unknown (maybe paid, no answer).
        storage: How objects are stored, beyond what the bucket does by itself.
        dry_run: Say what it would cost, in the log and in the artifact `...-plan`, and spend nothing.
            What would be asked for counts as skipped.
        approve_above: If the run would cost more, in credits, it is suspended until a person approves
            it, as for generate_images. Empty: nobody is asked.
        approve_within_seconds: A run that nobody has answered after so many seconds has failed.
        budget: The Nano Banana Budget block, saved: what all runs that name it may spend together in a
            day, a week or a month. Empty for none.
        template: Makes prompts of texts with variables, as for generate_images.
        fallback_models: The models that are asked, in this order, if one is retired or refuses a prompt,
            each at its own price: a refusal of the safety check is paid, too. Empty: none is.

    Returns:
        The report of the run, parts included.

    Raises:
        InvalidInput: If a prompt, file or parameter is wrong, a block is not saved, or there is no such
            deployment; nothing was spent.
        ApiError: If the account cannot be used; nothing was spent.
        StorageError: If the bucket cannot be used; nothing was spent.
        LedgerError: If a record cannot be read; nothing was spent.
        RunFailed: If `fail_on` turns the run red; it holds the report, and what was stored stays.
    """
    logger = get_run_logger()
    store = ObjectStore(bucket, storage)
    call = Call(
        prompts,
        prompts_from,
        generator,
        store,
        frozenset(ask_again),
        max_credits,
        logger,
        approve_above,
        budget,
        of_this_day(template),
        tuple(fallback_models),
        local_files=False,
    )
    given: dict[str, Any] = {
        "prompts": [p if isinstance(p, str) else p.model_dump(mode="json") for p in prompts],
        "prompts_from": prompts_from,
        "generator": _reference(generator, "generator"),
        "bucket": _reference(bucket, "bucket"),
        "ask_again": list(ask_again),
        "storage": storage.model_dump(mode="json"),
        "budget": _reference(budget, "budget") if budget is not None else None,
        "template": call.template.model_dump(mode="json") if call.template is not None else None,
    }
    check_size(given)
    if dry_run:
        work = Work.of_flow_run(call, batch, dry=True)
        plan = work.plan()
        return cast(RunReport, planned_state(work.planned(), plan))
    allowed = approved(call, batch, approve_within_seconds)
    if allowed is None:
        return cast(RunReport, refused_state())
    call, runs = allowed, runs_above()
    ledger = call.ledger(runs, batch)
    attempt = hashlib.sha256(json.dumps([ledger.asked_by, attempts(runs)]).encode()).hexdigest()
    part_runs = PartRuns(deployment, store.uri(ledger.key()), attempt, start_within_seconds, logger)
    part_runs.await_earlier()
    work = Work(call, ledger, retried=is_retried(runs))
    given["batch"] = ledger.batch

    def run(some: list[Part], fallbacks: list[str]) -> None:
        more = {"fallback_models": fallbacks} if fallbacks else {}
        part_runs.run(some, {**given, **more}, ledger.batch)

    report = work.finish_in_parts(parts, run)
    return cast(RunReport, final_state(report, fail_on))


@flow(name="generate_part", persist_result=False)
def generate_part(
    *,
    prompts: list[str | ImagePrompt] = [],  # noqa: B006  # the form shows it; nothing changes it
    prompts_from: str | None = None,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    batch: str,
    part: Part,
    ask_again: list[AskAgain] = [],  # noqa: B006  # likewise
    storage: StorageOptions = StorageOptions(),  # noqa: B008  # frozen, and shown in the form
    budget: NanoBananaBudget | None = None,
    template: PromptTemplate | None = None,
    fallback_models: list[str] = [],  # noqa: B006  # likewise
) -> RunReport:
    """Do one part of a batch: generate_in_parts starts this, and publishes what comes of it.

    Args:
        prompts: All prompts of the batch, as generate_in_parts was given them.
        prompts_from: Likewise.
        generator: Likewise.
        bucket: Likewise.
        batch: The batch's name.
        part: Which part of the prompts is meant, and for whom.
        ask_again: As generate_in_parts was given it.
        storage: Likewise.
        budget: Likewise.
        template: Likewise, with the day of the run that started this one.
        fallback_models: As generate_in_parts was given it.

    Returns:
        What this part did. It is green whatever became of single prompts: generate_in_parts judges.

    Raises:
        InvalidInput: If prompts, generator or bucket have changed since; nothing was spent.
        ApiError: If the account cannot be used; nothing was spent.
        StorageError: If the bucket cannot be used; nothing was spent.
        LedgerError: If a record cannot be read; nothing was spent.
    """
    store = ObjectStore(bucket, storage)
    call = Call(
        prompts,
        prompts_from,
        generator,
        store,
        frozenset(ask_again),
        part.max_credits,
        get_run_logger(),
        budget=budget,
        template=template,
        fallback_models=tuple(fallback_models),
        local_files=False,
    )
    try:
        work = Work(call, Ledger.open(store, batch, part.asked_by, part.caller), part=part)
    except InvalidInput as error:
        return cast(RunReport, Failed(name=REFUSED, message=str(error), data=error))
    report = work.finish_part()
    return cast(RunReport, Completed(message=summary(report), data=report))


def _reference(block: Block, parameter: str) -> Any:
    """Name a saved block: what it holds, as a key, must not be written into a flow run's parameters.

    Raises:
        InvalidInput: If it is not saved.
    """
    try:
        return block.model_dump(mode="json", context={"serialize_blocks_as_references": True})
    except PydanticSerializationError:
        raise InvalidInput(
            f"{parameter}: parts load the block from Prefect's server, and this one is not saved there: "
            'call its save("NAME"), or load a saved one'
        ) from None
