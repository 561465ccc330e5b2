"""Outcomes -> the rows of a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from prefect_nanobanana.manifest._columns import (
    IMAGE_COLUMNS,
    PROMPT_COLUMNS,
    SCHEMA_VERSION,
    Column,
    ListOf,
    Struct,
    Type,
)
from prefect_nanobanana.models import Origin, Outcome, Provenance, StoredImage

MOST_INT64 = 2**63 - 1
Row = dict[str, Any]
"""A row: its columns in their order, with Python's own values; timestamps are `datetime`s in UTC."""


class Entry(Protocol):
    """An outcome, and where it comes from; without what is secret in addresses."""

    @property
    def outcome(self) -> Outcome:
        """What became of a prompt."""

    @property
    def provenance(self) -> Provenance | None:
        """Where that comes from, if it is known."""


def prompt_rows(batch: str, entries: Iterable[Entry]) -> Iterator[Row]:
    """The rows of a batch's prompts.

    Args:
        batch: Its name.
        entries: One per prompt, in the order of the list.
    """
    for entry in entries:
        yield whole(_prompt(batch, entry.outcome, entry.provenance), PROMPT_COLUMNS)


def image_rows(prompts: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """The rows of the images of prompts.

    Args:
        prompts: The rows of the prompts.
    """
    for prompt in prompts:
        of_prompt = {**prompt, "prompt_credits_used": prompt["credits_used"]}
        for image in prompt["images"]:
            yield whole({**of_prompt, **image}, IMAGE_COLUMNS)


def whole(values: Mapping[str, Any], columns: Iterable[Column]) -> Row:
    """A row with each of these columns, in their order: null where there is no value."""
    return {column.name: _whole(values.get(column.name), column.type) for column in columns}


def _whole(value: Any, kind: Type) -> Any:
    match kind:
        case ListOf(item):
            return [_whole(each, item) for each in value or ()]
        case Struct(columns):
            return None if value is None else whole(value, columns)
        case "int64" if value is not None and abs(value) > MOST_INT64:
            return None  # a record may claim anything
        case _:
            return value


def _prompt(batch: str, outcome: Outcome, provenance: Provenance | None) -> Row:
    generation = outcome.generation
    origins = provenance.images if provenance is not None else ()
    if len(origins) != len(outcome.images):
        origins = tuple(map(Origin, range(1, len(outcome.images) + 1)))
    stored_at = [origin.stored_at for origin in origins if origin.stored_at is not None]
    row = outcome.model_dump(mode="json", exclude={"images"})
    row |= {
        "schema_version": SCHEMA_VERSION,
        "batch": batch,
        "prompt_text": outcome.prompt.prompt,
        "prompt_name": outcome.prompt.name,
        "generation_id": generation and generation.generation_id,
        "model": generation.model if generation else outcome.prompt.model,
        "stored_at": max(stored_at, default=None) if outcome.status == "stored" else None,
        "images": [_image(image, origin) for image, origin in zip(outcome.images, origins, strict=True)],
    }
    return row if provenance is None else row | _provenance(provenance)


def _provenance(provenance: Provenance) -> Row:
    request, caller = provenance.request, provenance.caller
    flow, _, deployment = (caller.flow or "").partition("/")  # Prefect takes no slash in names
    return {
        "prompt_key": provenance.key,
        "prompt_text": request.prompt,
        "model": request.model,
        "aspect_ratio": request.aspect_ratio,
        "quantity": request.quantity,
        "variables": [{"name": name, "value": value} for name, value in provenance.variables],
        "reference_keys": list(request.reference_image_urls),
        "flow": flow or None,
        "deployment": deployment or None,
        "flow_run_id": provenance.flow_run_id,
        "account": caller.account,
        "asked_at": provenance.asked_at,
    }


def _image(image: StoredImage, origin: Origin) -> Row:
    row = image.model_dump(mode="json")
    size = {} if image.checked else {"width": None, "height": None}
    return (
        row
        | size
        | {
            "checked": image.checked,
            "place": origin.place,
            "stored_at": origin.stored_at,
        }
    )
