"""The name of a batch that was given none: the same again whenever Prefect retries a run above it."""

import hashlib
import json
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from prefect_nanobanana._common.addresses import unsigned
from prefect_nanobanana._common.naming import slug
from prefect_nanobanana._common.runs_above import (
    Attempts,
    RunAbove,
    attempts,
    takes_the_place,
)
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import AskAgain, ImagePrompt, PromptTemplate

_lock = threading.Lock()
_calls: dict[str, list[Attempts]] = {}
"""By what was asked where: who asked it last, for each of the equal calls."""


def default_batch_name(
    runs: Sequence[RunAbove],
    prompts: Sequence[str | ImagePrompt],
    prompts_from: str | None,
    generator: NanoBananaGenerator,
    bucket_uri: str,
    has_records: Callable[[str], bool],
    *,
    template: PromptTemplate | None = None,
    dry: bool = False,
) -> str:
    """Name the batch of the flow run that this is called in.

    Under retries of the run itself, and of flows and tasks above it, a call with the same prompts,
    settings and bucket has the same name again. Equal calls beside each other have names of their own.

    Args:
        runs: The runs that the call is made in.
        prompts: As they were given to the flow.
        prompts_from: As it was given to the flow.
        generator: How images are made; its credentials play no part.
        bucket_uri: Where they go.
        has_records: Says whether there are records of a batch of that name; earlier versions named
            batches after the flow run's id.
        template: As it was given to the flow, with the day filled in.
        dry: Whether the call only looks.

    Returns:
        As `2026-11-25-fantastic-badger-981e10e2`: day (UTC) and name of the outermost run, and eight
        hexadecimal digits.

    Raises:
        InvalidInput: If a run above that is retried runs in another process, so that the call cannot be
            recognised when it is made again; nothing was spent.
    """
    own = runs[-1]
    if own.attempt > 1 and has_records(own.id):
        return own.id
    above = runs[:-1]
    if any(run.may_be_retried and not run.local for run in above):
        raise InvalidInput(
            "batch: a flow or task above this run has retries and runs in another process, so a retry "
            "could not find this batch again and would pay twice: give `batch=` a name that is the same "
            "in each attempt, or set the retries on this flow"
        )
    local = _local(runs)
    if local is None:
        # Random, unlike the first digits where ids begin with the time.
        return _name(own, own.id.replace("-", "")[:8] if own.id[14] == "4" else own.id[-8:])

    def name(cut: Callable[[str], str]) -> str:
        asked = _asked(prompts, prompts_from, generator, cut)
        if template is not None:
            asked["template"] = template.model_dump(mode="json")
        return _name(local[0], _digest(local, {**asked, "bucket": bucket_uri}, dry)[:8])

    found = name(unsigned)
    if is_retried(runs):
        former = name(_without_query)  # by versions up to 0.1
        if found != former and not has_records(found) and has_records(former):
            return former
    return found


def asker(
    runs: Sequence[RunAbove],
    bucket_uri: str,
    batch: str,
    ask_again: Collection[AskAgain],
    *,
    dry: bool = False,
) -> str:
    """Name the call that the flow run is made for: the same in each attempt of what is retried above.

    What it asks again on request, and what it may spend, holds for all attempts together, whatever
    becomes of the list in between. Calls that ask for different things again are different calls.

    Args:
        runs: The runs that the call is made in.
        bucket_uri: Where the images go.
        batch: The batch's name.
        ask_again: What it asks again.
        dry: Whether the call only looks.

    Returns:
        The flow run's id; with an addition if flows or tasks above it run in this process.
    """
    local = _local(runs)
    if local is None:
        return runs[-1].id
    call = {"bucket": bucket_uri, "batch": batch, "again": sorted(ask_again)}
    return f"{local[0].id}/{_digest(local, call, dry)[:16]}"


def is_retried(runs: Sequence[RunAbove]) -> bool:
    """Whether one of the runs is not in its first attempt."""
    return any(run.attempt > 1 for run in runs)


def _local(runs: Sequence[RunAbove]) -> list[RunAbove] | None:
    """The runs of this process, from the outermost; None if there is none above the caller's own."""
    local = [run for run in runs if run.local]
    if len(local) == 1 or not all(run.local for run in runs[runs.index(local[0]) :]):
        return None
    return local


def _digest(local: Sequence[RunAbove], call: dict[str, Any], dry: bool) -> str:
    """What tells a call from all others in its outermost run."""
    text = json.dumps([local[0].id, [run.kind for run in local], call], sort_keys=True, default=str)
    return hashlib.sha256(f"{text}#{_place(text, attempts(local), dry)}".encode()).hexdigest()


def _name(run: RunAbove, digits: str) -> str:
    day = (run.scheduled or datetime.now(UTC)).astimezone(UTC).date()
    return f"{day}-{slug(run.name)}-{digits}"


def _place(call: str, mine: Attempts, dry: bool) -> int:
    """Which of the equal calls this is, from 0; one that only looks leaves its place to the next."""
    with _lock:
        earlier = _calls.setdefault(hashlib.sha256(call.encode()).hexdigest(), [])
        place = next((n for n, e in enumerate(earlier) if takes_the_place(mine, e)), len(earlier))
        if not dry:
            earlier[place : place + 1] = [mine]
        return place


def _asked(
    prompts: Sequence[str | ImagePrompt],
    prompts_from: str | None,
    generator: NanoBananaGenerator,
    cut: Callable[[str], str],
) -> dict[str, Any]:
    """What is asked; `cut` takes signatures from addresses, which are others in each attempt."""
    listed = []
    for prompt in prompts:
        asked = ImagePrompt(prompt=prompt) if isinstance(prompt, str) else prompt
        fields = asked.model_dump(mode="json", exclude_none=True)
        if asked.reference_image_urls:
            fields["reference_image_urls"] = [cut(url) for url in asked.reference_image_urls]
        listed.append(fields)
    return {
        "prompts": listed,
        "prompts_from": cut(prompts_from) if prompts_from else None,
        "generator": generator.model_dump(mode="json", exclude={"credentials", "reference_image_urls"}),
        "references": [cut(url) for url in generator.reference_image_urls],
    }


def _without_query(address: str) -> str:
    return address.partition("?")[0]
