"""Which prompts to ask for, by the ledger."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from prefect_nanobanana.batch._job import Again, Job
from prefect_nanobanana.batch._keys import PromptKey, identity, prompt_keys, signed_anew
from prefect_nanobanana.batch._ledger import Claimed, Ledger, Record
from prefect_nanobanana.batch._prompts import Listed
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import DEFAULT_MODEL, ImageModel, ImageRequest


def plan(
    listed: list[Listed],
    generator: NanoBananaGenerator,
    models: dict[str, ImageModel],
    ledger: Ledger,
    max_credits: int | None,
    again: Again,
    logger: Any,
) -> list[Job]:
    """Make a job of each prompt, with what the ledger knows of it; all is checked first."""
    requests: list[ImageRequest] = []
    problems: list[str] = []
    for item in listed:
        try:
            requests.append(generator.request(item.prompt))
        except InvalidInput as error:
            problems += [f"{item.place}: {problem}" for problem in error.problems]
        else:
            problems += [f"{item.place}: {problem}" for problem in _problems(requests[-1], models)]
    if problems:
        raise InvalidInput(*problems)
    prices = [r.cost(models[r.model]) if r.model in models else None for r in requests]
    if max_credits is not None and None in prices:
        model = requests[prices.index(None)].model
        raise InvalidInput(
            f"max_credits: cannot be kept, as the API does not list the price of {model!r}: leave "
            "max_credits empty, or take a model whose price is listed"
        )
    keys = prompt_keys([item.prompt for item in listed], requests)
    records = _records(ledger, keys)
    jobs = []
    for position, (key, item, request, price) in enumerate(
        zip(keys, listed, requests, prices, strict=True), 1
    ):
        record = records.get(key) or Record(key=key.key, prompt=item.prompt, request=request)
        if record.safe_to_send:
            record.prompt, record.request = item.prompt, request
        record.position = position
        wanted = (item.prompt, request)
        jobs.append(Job(position, record, price, ledger, again=again.wants(record), wanted=wanted))
    first = next((job for job in jobs if job.to_ask), None)
    if first is not None:
        with suppress(Claimed):  # another run has it in hand, which is met again when it is asked for
            ledger.claim(first.record)  # a bucket that refuses writing is found before it costs anything
            if not ledger.probe(first.record):
                logger.info(
                    "The store ignores conditional writes: do not run one batch twice at the same time"
                )
    return jobs


def _records(ledger: Ledger, keys: list[PromptKey]) -> dict[PromptKey, Record]:
    """The records that there are of these prompts, also under keys that earlier versions gave them."""
    read = ledger.read(name for key in keys for name in (key.key, *key.former))
    found = {key: read[name] for key in keys for name in (*key.former, key.key) if name in read}
    if any(key.former and key not in found for key in keys):
        others = ledger.read_others(read)
        told = [(name, identity(record.prompt, record.request)) for name, record in others.items()]
        again = signed_anew(keys, read.keys(), told)
        found |= {key: others[again[key.key]] for key in keys if key.key in again}
    return found


def _problems(request: ImageRequest, models: dict[str, ImageModel]) -> list[str]:
    model = models.get(request.model)
    if model is None:
        if request.model == DEFAULT_MODEL:
            return []  # documented as the default, whether it is listed or not
        return [f"model: the API has no {request.model!r}: it has {', '.join(sorted(models)) or 'none'}"]
    if request.reference_image_urls and not model.supports_image_input:
        return [f"reference_image_urls: {model.name} takes no reference images: remove them"]
    return []
