"""What a run would cost, before anything is spent."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from typing import Annotated, Literal, cast

from prefect import flow, get_run_logger
from prefect_aws import S3Bucket
from pydantic import Field

from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.flows._call import Call
from prefect_nanobanana.flows._days import of_this_day
from prefect_nanobanana.flows._states import planned_state
from prefect_nanobanana.flows._work import Work
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import AskAgain, ImagePrompt, Plan, PromptTemplate
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions


@flow(name="plan_images", persist_result=False)
def plan_images(
    *,
    prompts: list[str | ImagePrompt] = [],  # noqa: B006  # the form shows it; nothing changes it
    prompts_from: str | None = None,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    batch: str | None = None,
    max_credits: Annotated[int, Field(ge=0)] | None = None,
    fail_on: Literal["error", "warning", "never"] = "error",  # noqa: ARG001  # as generate_images has
    ask_again: list[AskAgain] = [],  # noqa: B006  # likewise
    storage: StorageOptions = StorageOptions(),  # noqa: B008  # frozen, and shown in the form
    approve_above: Annotated[int, Field(ge=0)] | None = None,
    budget: NanoBananaBudget | None = None,
    template: PromptTemplate | None = None,
    fallback_models: list[str] = [],  # noqa: B006  # likewise
) -> Plan:
    """Say what `generate_images` would do with the same parameters, and what that would cost.

    It spends nothing: it asks the API for its prices and the balance, reads list and records, and
    writes nothing into the bucket.

    Args:
        prompts: The prompts, one per row: plain text, or a form with settings of its own.
        prompts_from: A .txt, .csv, .tsv, .json, .jsonl or .parquet file with more prompts: an s3://
            address, a web address, or a path on the machine that runs the flow.
        generator: The Nano Banana Generator block: which account would pay, and how images are made.
        bucket: The S3 Bucket block in which the batch is, or would be.
        batch: The name of the piece of work: what it has already costs nothing. Empty for a new one.
        max_credits: The most that the run may spend, in credits. Empty for no bound.
        fail_on: Of no meaning here; it is taken so that the parameters are the same.
        ask_again: What earlier runs of the batch have asked, and would be asked, and paid, again.
        storage: How objects are stored, beyond what the bucket does by itself.
        approve_above: What costs more needs a person's approval: the plan says whether this does.
        budget: The Nano Banana Budget block: the plan says what is left of it.
        template: Makes prompts of texts with variables, as {product} on {desk}, of the list's columns or
            of every combination of a matrix. Empty: the prompts are as they are.
        fallback_models: The models that are asked, in this order, if one is retired or refuses a prompt,
            each at its own price: a refusal of the safety check is paid, too. Empty: none is.

    Returns:
        The plan, prompt by prompt, with the totals by model and the balance.

    Raises:
        InvalidInput: If a prompt, file or parameter is wrong; names each line and its cure.
        ApiError: If the account cannot be used.
        StorageError: If the bucket cannot be read.
        LedgerError: If a record cannot be read.
    """
    store, logger = ObjectStore(bucket, storage), get_run_logger()
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
    )
    plan = Work.of_flow_run(call, batch, dry=True).plan()
    # The final state carries the message; a caller of the flow gets the plan out of it.
    return cast(Plan, planned_state(plan, plan))
