"""Outcomes -> the rows of a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any, Protocol

from prefect_nanobanana._common.similar import lookalikes
from prefect_nanobanana._common.text import well_formed
from prefect_nanobanana.manifest._besides import Besides
from prefect_nanobanana.manifest._columns import (
    IMAGE_COLUMNS,
    PROMPT_COLUMNS,
    SCHEMA_VERSION,
    Column,
    ListOf,
    Struct,
    Type,
)
from prefect_nanobanana.models import DIGITAL_SOURCE_TYPE, Origin, Outcome, Provenance, StoredImage
from prefect_nanobanana.picks import Pick
from prefect_nanobanana.retention import removal_of

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


def prompt_rows(batch: str, entries: Sequence[Entry], besides: Besides | None = None) -> Iterator[Row]:
    """The rows of a batch's prompts.

    Args:
        batch: Its name.
        entries: One per prompt, in the order of the list.
        besides: What is known of its images besides.
    """
    alike = lookalikes(image for entry in entries for image in entry.outcome.images)
    for entry in entries:
        row = _prompt(batch, entry.outcome, entry.provenance, besides or Besides(), alike)
        yield whole(row, PROMPT_COLUMNS)


def image_rows(prompts: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """The rows of the images of prompts.

    Args:
        prompts: The rows of the prompts.
    """
    for prompt in prompts:
        of_prompt = {**prompt, "prompt_credits_used": prompt["credits_used"]}
        for image in prompt["images"]:
            unknown = _OF_LAST_REQUEST if image["earlier"] else {}
            yield whole({**of_prompt, **unknown, **image}, IMAGE_COLUMNS)


_OF_LAST_REQUEST = dict.fromkeys(
    (
        *("prompt_text", "model", "aspect_ratio", "quantity", "variables", "reference_keys"),
        *("flow", "deployment", "flow_run_id", "account", "asked_at", "generation_id"),
    )
)


def whole(values: Mapping[str, Any], columns: Iterable[Column]) -> Row:
    """A row with each of these columns, in their order: null where there is no value."""
    return {column.name: _whole(values.get(column.name), column.type) for column in columns}


def _whole(value: Any, kind: Type) -> Any:
    match kind:
        case ListOf(item):
            return [_whole(each, item) for each in value or ()]
        case Struct(columns):
            return None if value is None else whole(value, columns)
        case "string" if value is not None and not value.isascii():
            return well_formed(value)
        case "timestamp" if value is not None:
            try:
                return value.astimezone(UTC)
            except OverflowError:  # the first or last day that there is, in another zone
                return None
        case "int64" if value is not None and abs(value) > MOST_INT64:
            return None  # a record may claim anything
        case _:
            return value


def _prompt(
    batch: str,
    outcome: Outcome,
    provenance: Provenance | None,
    besides: Besides,
    alike: Mapping[str, str],
) -> Row:
    key = provenance.key if provenance is not None else ""
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
        "images": [
            {
                **_image(image, origin, besides.picks.get((key, origin.place)), alike.get(image.key)),
                **_described(image, besides),
                **_removed(image, besides),
                "derived": _derived(image, besides),
            }
            for image, origin in zip(outcome.images, origins, strict=True)
        ],
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


def _image(image: StoredImage, origin: Origin, pick: Pick | None, similar_to: str | None) -> Row:
    row = image.model_dump(mode="json")
    row |= {"digital_source_type": DIGITAL_SOURCE_TYPE, "similar_to": similar_to}
    if pick is not None and pick.is_on(image):
        row |= {"picked": pick.picked, "pick_note": pick.note, "picked_at": pick.decided_at}
    size = {} if image.checked else {"width": None, "height": None}
    return (
        row
        | size
        | {
            "checked": image.checked,
            "place": origin.place,
            "earlier": origin.earlier,
            "stored_at": origin.stored_at,
        }
    )


def _described(image: StoredImage, besides: Besides) -> Row:
    said = besides.descriptions.get(image.sha256)
    return {} if said is None else {"alt_text": said.alt_text, "caption": said.caption}


def _removed(image: StoredImage, besides: Besides) -> Row:
    removed = removal_of(image, besides.removed)
    return {} if removed is None else {"removed_at": removed.at, "moved_to": removed.moved_to}


def _derived(image: StoredImage, besides: Besides) -> list[Row]:
    fields = {"key", "content_type", "width", "height", "size_bytes", "sha256"}
    rows = [
        each.model_dump(mode="json", include=fields)
        for each in besides.derived.get(image.key, ())
        if each.source_sha256 == image.sha256
    ]
    return [{**row, "uri": besides.bucket + row["key"]} for row in rows]
