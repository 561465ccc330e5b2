"""Values that are kept as JSON in a bucket, read as input from strangers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.models.base import describe_errors

M = TypeVar("M", bound=BaseModel)
L = TypeVar("L", bound="Line")


class Line(BaseModel):
    """A value that stands in a line of its own; later versions may write more into it.

    Attributes:
        schema_version: Of its format.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1


def parse_json(kind: type[M], content: bytes | str, name: str, cure: str) -> M:
    """Read a value.

    Args:
        kind: Which.
        content: Its JSON.
        name: Where it is, for errors.
        cure: What to do if it cannot be read, for errors.

    Raises:
        InvalidInput: If it cannot be read.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        why = "; ".join(describe_errors(error)[:3])
    except RecursionError:
        why = "too deep"
    raise InvalidInput(f"{name}: {why}: {cure}")


def read_lines(kind: type[L], content: bytes, name: str, cure: str) -> Iterator[tuple[str, L]]:
    """Read values, one to a line, each with its place, for errors; see `parse_json`.

    Raises:
        InvalidInput: If a line cannot be read, or a newer version has written it; names the line.
    """
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            place = f"{name}, line {number}"
            value = parse_json(kind, line, place, cure)
            if value.schema_version != 1:
                raise InvalidInput(f"{place}: was written by a newer version: update the package")
            yield place, value


def to_lines(values: Iterable[Line]) -> bytes:
    """Values as JSON, one to a line."""
    return "".join(f"{value.model_dump_json()}\n" for value in values).encode()
