"""People pick: what is kept of a batch, what is rejected, and what is asked for again."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from typing import Annotated, Any, cast

from prefect import flow, get_run_logger
from prefect.states import Completed
from prefect_aws import S3Bucket
from pydantic import Field

from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.flows._asked import current_run
from prefect_nanobanana.flows._images import generate_images
from prefect_nanobanana.flows._review_steps import KeepAs, ReviewSteps
from prefect_nanobanana.flows._variants import spent_on
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import ReviewReport
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions

DECIDE_WITHIN_SECONDS = 3 * 86_400
"""How long a review waits for a person by default: three days."""


@flow(name="review_images", persist_result=False)
def review_images(
    *,
    batch: str,
    bucket: S3Bucket,
    generator: NanoBananaGenerator | None = None,
    picks: str | None = None,
    keep_as: KeepAs = "copy",
    variants: Annotated[int, Field(ge=0, le=9)] = 0,
    max_credits: Annotated[int, Field(ge=0)] | None = None,
    budget: NanoBananaBudget | None = None,
    decide_within_seconds: Annotated[int, Field(ge=60, le=604_800)] = DECIDE_WITHIN_SECONDS,
    storage: StorageOptions = StorageOptions(),  # noqa: B008  # frozen, and shown in the form
) -> ReviewReport:
    """Have people decide which images of a batch are kept. Nothing that was paid for is deleted.

    The run is suspended until somebody has decided: on the review page, with the keyboard, or in the
    form that Prefect's UI shows under Resume. Only a run of a deployment can be; a script gives `picks`.

    Args:
        batch: The batch's name.
        bucket: The S3 Bucket block in which it is.
        generator: The Nano Banana Generator block that asks for variants; without any it is not needed.
        picks: Where a picks.json lies that the review page has saved: an s3:// address or, in scripts, a
            path. It is taken over, and nobody is asked. Empty: people are.
        keep_as: What becomes of what is kept: `copy` into the batch's folder picked/, `tag` the object
            with picked=true, or `record` it in picks.jsonl alone, as the two others do, too.
        variants: So many times a prompt is asked for again, and paid, whose images are all rejected.
        max_credits: The most that this run may spend on variants, in credits. Empty for no bound.
        budget: The Nano Banana Budget block: what variants share with other runs. Empty for none.
        decide_within_seconds: A run that nobody has answered after so many seconds has failed; so long
            the review page can hand over, too. A week at most, as addresses are signed for no longer.
        storage: How objects are stored, beyond what the bucket does by itself: as for the batch.

    Returns:
        How many images are kept, rejected and undecided.

    Raises:
        InvalidInput: If there is no such batch, picks cannot be read, or the run cannot be suspended.
        StorageError: If the bucket cannot be used.
        LedgerError: If a record cannot be read.
    """
    if variants and generator is None:
        raise InvalidInput("generator: is missing: name the block whose account pays for variants")
    logger = get_run_logger()
    store = ObjectStore(bucket, storage)
    picks = (picks or "").strip()
    steps = ReviewSteps(store, batch, current_run(), keep_as, decide_within_seconds, logger)
    if picks:
        steps.decide(steps.read(picks))
    variants_asked, problems = set[str](), list[str]()
    while True:
        steps.carry_out()
        wanted, told = steps.variants(variants, variants_asked)
        left = None if max_credits is None else int(max(0, max_credits - spent_on(steps.own_variants)))
        problems += told
        if wanted and generator is not None and left != 0:
            variants_asked |= {str(each.name) for each in wanted}
            settings: dict[str, Any] = {"max_credits": left, "budget": budget, "storage": storage}
            try:
                generate_images(
                    prompts=wanted,
                    generator=generator,
                    bucket=bucket,
                    batch=steps.batch,
                    fail_on="never",
                    **settings,
                )
            except InvalidInput as error:  # what people have decided counts all the same
                problems += error.problems
            steps.reload()
        if picks or not steps.ask():
            break
    for problem in problems:
        logger.warning("A variant is not asked for: %s", problem)
    report = steps.publish(steps.own_variants)
    message = f"{report.kept} kept, {report.rejected} rejected, {report.undecided} undecided"
    if report.variants:
        message += f"; {report.variants} variants, {report.credits_used} credits"
    return cast(ReviewReport, Completed(message=message, data=report))
