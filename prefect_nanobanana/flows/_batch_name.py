"""The name of a batch that was given none: the same again whenever Prefect retries a run above it."""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from prefect_nanobanana._common.naming import slug
from prefect_nanobanana._common.runs_above import (
    Attempts,
    RunAbove,
    attempts,
    runs_above,
    takes_the_place,
)
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import ImagePrompt

_lock = threading.Lock()
_calls: dict[str, list[Attempts]] = {}
"""By what was asked where: who asked it last, for each of the equal calls."""


def default_batch_name(
    prompts: Sequence[str | ImagePrompt],
    prompts_from: str | None,
    generator: NanoBananaGenerator,
    bucket_uri: str,
    has_records: Callable[[str], bool],
) -> str:
    """Name the batch of the flow run that this is called in.

    Under retries of the run itself, and of flows and tasks above it, a call with the same prompts,
    settings and bucket has the same name again. Equal calls beside each other have names of their own.

    Args:
        prompts: As they were given to the flow.
        prompts_from: As it was given to the flow.
        generator: How images are made; its credentials play no part.
        bucket_uri: Where they go.
        has_records: Says whether there are records of a batch of that name; earlier versions named
            batches after the flow run's id.

    Returns:
        As `2026-11-25-fantastic-badger-981e10e2`: day (UTC) and name of the outermost run, and eight
        hexadecimal digits.

    Raises:
        InvalidInput: If a run above that is retried runs in another process, so that the call cannot be
            recognised when it is made again; nothing was spent.
    """
    runs = runs_above()
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
    digest = _digest(runs, prompts, prompts_from, generator, bucket_uri)
    if digest is None:
        # Random, unlike the first digits where ids begin with the time.
        return _name(own, own.id.replace("-", "")[:8] if own.id[14] == "4" else own.id[-8:])
    return _name(next(run for run in runs if run.local), digest[:8])


def asker(
    prompts: Sequence[str | ImagePrompt],
    prompts_from: str | None,
    generator: NanoBananaGenerator,
    bucket_uri: str,
    batch: str | None,
) -> str:
    """Name the call that the flow run is made for: the same in each attempt of what is retried above.

    What it asks again on request, and what it may spend, holds for all attempts together.

    Args:
        prompts: As they were given to the flow.
        prompts_from: As it was given to the flow.
        generator: How images are made.
        bucket_uri: Where they go.
        batch: The batch's name, if it was given one.

    Returns:
        The flow run's id; with an addition if flows or tasks above it run in this process.
    """
    runs = runs_above()
    digest = _digest(runs, prompts, prompts_from, generator, bucket_uri, batch)
    if digest is None:
        return runs[-1].id
    return f"{next(run for run in runs if run.local).id}/{digest[:16]}"


def _digest(
    runs: Sequence[RunAbove],
    prompts: Sequence[str | ImagePrompt],
    prompts_from: str | None,
    generator: NanoBananaGenerator,
    bucket_uri: str,
    batch: str | None = None,
) -> str | None:
    """What tells the call from all others in its outermost run; None if nothing above it is here."""
    local = [run for run in runs if run.local]
    if len(local) == 1 or not all(run.local for run in runs[runs.index(local[0]) :]):
        return None
    asked = {
        "prompts": [_asked(prompt) for prompt in prompts],
        "prompts_from": _without_query(prompts_from),
        "generator": generator.model_dump(mode="json", exclude={"credentials", "reference_image_urls"}),
        "references": [_without_query(url) for url in generator.reference_image_urls],
        "bucket": bucket_uri,
        **({"batch": batch} if batch else {}),
    }
    call = json.dumps([local[0].id, [run.kind for run in local], asked], sort_keys=True, default=str)
    return hashlib.sha256(f"{call}#{_place(call, attempts(local))}".encode()).hexdigest()


def _name(run: RunAbove, digits: str) -> str:
    day = (run.scheduled or datetime.now(UTC)).astimezone(UTC).date()
    return f"{day}-{slug(run.name)}-{digits}"


def _place(call: str, mine: Attempts) -> int:
    """Which of the equal calls this is, from 0."""
    with _lock:
        earlier = _calls.setdefault(hashlib.sha256(call.encode()).hexdigest(), [])
        place = next((n for n, e in enumerate(earlier) if takes_the_place(mine, e)), len(earlier))
        earlier[place : place + 1] = [mine]
        return place


def _asked(prompt: str | ImagePrompt) -> dict[str, Any]:
    asked = ImagePrompt(prompt=prompt) if isinstance(prompt, str) else prompt
    fields = asked.model_dump(mode="json", exclude_none=True)
    if asked.reference_image_urls:
        fields["reference_image_urls"] = [_without_query(url) for url in asked.reference_image_urls]
    return fields


def _without_query(address: str | None) -> str | None:
    """An address without what may be a signature, which is another one in each attempt."""
    return address.partition("?")[0] if address else None
