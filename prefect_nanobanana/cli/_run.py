"""`nanobanana run`, `plan`, `resume` and `pending`: the main job, and what it left."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal, cast

from rich.console import Console

from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.cli._options import Asked, Bucket, Template, Work
from prefect_nanobanana.cli._outcome import Json, print_error, print_json
from prefect_nanobanana.cli._prefect import quiet_prefect
from prefect_nanobanana.console import live_progress, print_plan, print_report
from prefect_nanobanana.errors import InvalidInput, RunFailed
from prefect_nanobanana.flows import copy_pending, generate_images, plan_images
from prefect_nanobanana.models import PendingReport, Plan, RunReport
from prefect_nanobanana.report import summary
from prefect_nanobanana.s3 import ObjectStore

FAILED = 1
FailOn = Literal["error", "warning", "never"]


def run(
    file: str | None = None,
    /,
    *,
    batch: str | None = None,
    work: Work = Work(),  # noqa: B008  # frozen, as the others
    to: Bucket,
    asked: Asked = Asked(),  # noqa: B008
    templates: Template = Template(),  # noqa: B008
    fail_on: FailOn = "error",
    as_json: Json = False,
) -> int:
    """Make pictures of a list of prompts, copy them to S3, and report the credits.

    Args:
        file: A .txt, .csv, .tsv, .json, .jsonl or .parquet file: a path, an s3:// or a web address.
        batch: The name of this piece of work; the same name again resumes it.
        work: What is asked for.
        to: Where the pictures go.
        asked: How they are made.
        templates: Prompts with variables.
        fail_on: What turns the run red.
        as_json: Print the report as one line of JSON, and the progress to standard error.
    """
    return _run(_settings(file, batch, work, to, asked, templates), fail_on, as_json)


def plan(
    file: str | None = None,
    /,
    *,
    batch: str | None = None,
    work: Work = Work(),  # noqa: B008
    to: Bucket,
    asked: Asked = Asked(),  # noqa: B008
    templates: Template = Template(),  # noqa: B008
    as_json: Json = False,
) -> int:
    """Say what a run would cost, prompt by prompt, and spend nothing.

    Args:
        file: The list, as for run.
        batch: The name of this piece of work: what it has already is not asked for again.
        work: What is asked for.
        to: Where the pictures would go.
        asked: How they would be made.
        templates: Prompts with variables.
        as_json: Print the plan as one line of JSON.
    """
    with quiet_prefect():
        found = cast(Plan, plan_images(**_settings(file, batch, work, to, asked, templates)))
    if as_json:
        print_json({"summary": summary(found), "price": found.price, **found.model_dump(mode="json")})
    else:
        print_plan(found)
    return 0


def resume(
    batch: str,
    file: str | None = None,
    /,
    *,
    work: Work = Work(),  # noqa: B008
    to: Bucket,
    asked: Asked = Asked(),  # noqa: B008
    templates: Template = Template(),  # noqa: B008
    fail_on: FailOn = "error",
    as_json: Json = False,
) -> int:
    """Go on with a batch that is there: what was paid is not paid again.

    It takes the same list as before. A name that is mistyped begins no new batch, as it would with run.

    Args:
        batch: The batch's name.
        file: The list, as for run.
        work: What is asked for.
        to: Where the batch is.
        asked: How pictures are made.
        templates: Prompts with variables.
        fail_on: What turns the run red.
        as_json: Print the report as one line of JSON, and the progress to standard error.
    """
    store = ObjectStore(to.block())
    if not Ledger.open(store, batch).exists():
        raise InvalidInput(f"there is no batch {batch!r} in {store.uri(store.key())}: correct its name")
    return _run(_settings(file, batch, work, to, asked, templates), fail_on, as_json)


def pending(*batches: str, to: Bucket, requests_at_once: int = 1, as_json: Json = False) -> int:
    """Fetch pictures that were paid for and are not in S3 yet, before their addresses die.

    It costs no credits.

    Args:
        batches: Names of batches; by default all in the bucket's folder.
        to: Where the batches are.
        requests_at_once: What the account may have open.
        as_json: Print what was found as one line of JSON.
    """
    generator, code = Asked(requests_at_once=requests_at_once).generator(), 0
    try:
        with quiet_prefect():
            report = copy_pending(generator=generator, bucket=to.block(), batches=list(batches))
    except RunFailed as error:
        report, code = cast(PendingReport, error.report), FAILED
    if as_json:
        print_json({"summary": summary(report), **report.model_dump(mode="json")})
    else:
        print(summary(report))
        for line in report.messages:
            print_error(line)
    return code


def _settings(
    file: str | None,
    batch: str | None,
    work: Work,
    to: Bucket,
    asked: Asked,
    templates: Template,
) -> dict[str, Any]:
    bucket = to.block()
    return {
        "prompts": list(work.prompt),
        "prompts_from": file,
        "generator": asked.generator(),
        "bucket": bucket,
        "batch": batch,
        "max_credits": work.max_credits,
        "ask_again": list(work.ask_again),
        "template": templates.value(),
        "fallback_models": list(asked.fallback_model),
        "budget": NanoBananaBudget.from_text(work.budget, bucket) if work.budget else None,
    }


def _run(settings: dict[str, Any], fail_on: FailOn, as_json: bool) -> int:
    failure = None
    with ExitStack() as stack:
        stack.enter_context(quiet_prefect())
        stack.enter_context(live_progress(Console(stderr=as_json)))
        try:
            report = cast(RunReport, generate_images(**settings, fail_on=fail_on))
        except RunFailed as error:
            report, failure = cast(RunReport, error.report), error
    if as_json:
        print_json({"summary": summary(report), **report.model_dump(mode="json")})
    else:
        print_report(report)
    if failure is not None:
        print_error(f"failed: {failure}")
        return FAILED
    return 0
