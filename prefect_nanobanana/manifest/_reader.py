"""Reads manifests of all versions, as input from strangers: whoever may write the bucket may have."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana._common.text import well_formed
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.manifest._columns import (
    PROMPT_COLUMNS,
    SCHEMA_VERSION,
    Column,
    ListOf,
    Simple,
    Struct,
    Type,
)
from prefect_nanobanana.manifest._rows import MOST_INT64, Row

_PLACE = re.compile(r"-([1-9]\d{0,3})\.\w{1,8}$")
_ANEW = "have the manifest written anew with publish_batches"
_NEVER_NULL: Mapping[str, Any] = {
    "credits_used": 0,
    "credits_at_risk": 0,
    "credits_own": 0,
    "credits_estimated": False,
    "reused": False,
    "by_other_run": False,
}
"""What earlier versions left out where it was nothing."""


def read_prompts(batch: str, name: str, content: bytes) -> Iterator[Row]:
    """Read a `manifest.jsonl` of whatever version, as rows of version 1.

    Args:
        batch: The batch that it is of.
        name: Where it is, for errors.
        content: What is in it.

    Raises:
        InvalidInput: If it cannot be read; names the line and the column.
    """
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield _row(batch, line)
        except ValueError as error:
            raise InvalidInput(f"{name}, line {number}: {error}") from None


def _row(batch: str, line: bytes) -> Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"is not JSON: {_ANEW}") from None
    if not isinstance(found, dict):
        raise ValueError(f"is not an object: {_ANEW}")
    version = found.get("schema_version")
    if version is None:
        found = _upgraded(found)
    elif version != SCHEMA_VERSION:
        raise ValueError(f"has schema_version {quoted(str(version))}: update prefect-nanobanana")
    # The batch may have been copied here under another name.
    return {
        column.name: batch if column.name == "batch" else _checked(column, found)
        for column in PROMPT_COLUMNS
    }


def _checked(column: Column, values: Mapping[str, Any], above: str = "") -> Any:
    return _value(values.get(column.name), column.type, above + column.name)


def _value(value: Any, kind: Type, name: str) -> Any:
    match kind:
        case ListOf(item):
            if isinstance(value, list):
                items = [_value(each, item, name) for each in value]
                if None not in items:
                    return items
            if value is None:
                return []
        case Struct(columns):
            if isinstance(value, dict):
                return {column.name: _checked(column, value, f"{name}.") for column in columns}
            if value is None:
                return None
        case _:
            return None if value is None else _simple(value, kind, name)
    raise _other_type(name)


def _other_type(name: str) -> ValueError:
    return ValueError(f"{name} is of another type: {_ANEW}")


def _simple(value: Any, kind: Simple, name: str) -> Any:
    match kind:
        case "string" if isinstance(value, str):
            return well_formed(value)
        case "boolean" if isinstance(value, bool):
            return value
        case "int64" if isinstance(value, int) and not isinstance(value, bool):
            if abs(value) <= MOST_INT64:
                return value
        case "double" if isinstance(value, int | float) and not isinstance(value, bool):
            with suppress(OverflowError):
                if math.isfinite(number := float(value)):
                    return number
        case "timestamp" if isinstance(value, str):
            try:
                found = datetime.fromisoformat(value)
                return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
            except (ValueError, OverflowError):
                raise ValueError(f"{name} is not a time: {_ANEW}") from None
    raise _other_type(name)


def _upgraded(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row that a version before 1 wrote, as far as it tells what version 1 does."""
    prompt, generation = _object(row, "prompt"), _object(row, "generation")
    listed = row.get("images") or []
    if not isinstance(listed, list) or not all(isinstance(image, dict) for image in listed):
        raise _other_type("images")
    known = {name: row.get(name, otherwise) for name, otherwise in _NEVER_NULL.items()}
    return {
        **row,
        **known,
        "schema_version": SCHEMA_VERSION,
        "prompt_text": prompt.get("prompt"),
        "prompt_name": prompt.get("name"),
        "model": generation.get("model") or prompt.get("model"),
        "aspect_ratio": prompt.get("aspect_ratio"),
        "quantity": prompt.get("quantity"),
        "reference_keys": prompt.get("reference_image_urls"),
        "generation_id": generation.get("generation_id"),
        "images": [_upgraded_image(image, n) for n, image in enumerate(listed, 1)],
    }


def _upgraded_image(image: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    place = _PLACE.search(str(image.get("key")).rpartition("/")[2])
    checked = image.get("checked", True)
    size = {} if checked else {"width": None, "height": None}
    return {
        **image,
        **size,
        "checked": checked,
        "earlier": False,
        "place": int(place[1]) if place else number,
    }


def _object(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = row.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _other_type(name)
    return found
