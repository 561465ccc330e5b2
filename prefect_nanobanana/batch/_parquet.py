"""Lists of prompts in Parquet files, as data platforms write them; read by pyarrow, which is an extra.

pyarrow was taken and not polars: it is what pandas, Spark and DuckDB exchange tables with, and reads row
by row. It is imported when a list is a Parquet file, and never else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import date, time
from decimal import Decimal
from itertools import count
from typing import Any

from prefect_nanobanana.errors import InvalidInput

ROWS_AT_ONCE = 256
MOST_CHARACTERS = 256 * 1024 * 1024
"""Of all values together: one that is repeated is small in the file."""
_MAGIC = b"PAR1"
_LISTS = ("reference_image_urls",)


class ParquetRows:
    """The rows of a Parquet file, with the values that a table of text would have.

    Args:
        name: The file's name, for errors.
        content: What is in it.

    Raises:
        InvalidInput: If it cannot be read.
    """

    def __init__(self, name: str, content: bytes) -> None:
        self._name = name
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise InvalidInput(
                f"{name}: needs pyarrow: install prefect-nanobanana[parquet], or give it "
                "as .csv or .jsonl"
            ) from None
        if not content:
            raise InvalidInput(f"{name}: is empty: write it anew")
        if not content.startswith(_MAGIC):
            raise InvalidInput(f"{name}: is not a Parquet file: give it the ending of what it is")
        self._errors = (pyarrow.ArrowException, OSError, ValueError, OverflowError)
        try:
            self._file = parquet.ParquetFile(pyarrow.BufferReader(content))
            self.columns: list[str] = list(self._file.schema_arrow.names)
            texts = [field.name for field in self._file.schema_arrow if _is_text(field.type)]
            # Else a text that stands once in the file, and in a million rows, would be copied as often.
            self._file = parquet.ParquetFile(
                pyarrow.BufferReader(content),
                read_dictionary=texts,
                page_checksum_verification=True,  # of those that have any
            )
        except self._errors as error:
            raise self._unreadable(error) from None

    def values(self, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows, numbered from 1, with some of their columns.

        Raises:
            InvalidInput: If one cannot be read.
        """
        numbers, left = count(1), MOST_CHARACTERS
        try:
            for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=columns):
                its = dict(zip(batch.schema.names, batch.columns, strict=True))
                for place in range(batch.num_rows):
                    row = {name: _value(name, column[place].as_py()) for name, column in its.items()}
                    left -= sum(len(str(value)) for value in row.values())
                    if left < 0:
                        raise InvalidInput(
                            f"{self._name}: holds more than {MOST_CHARACTERS} characters: split it"
                        )
                    yield next(numbers), row
        except InvalidInput:
            raise
        except self._errors as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> InvalidInput:
        why = " ".join(str(error).split())[:200]
        return InvalidInput(f"{self._name}: cannot be read ({why}): write it anew, or as .csv or .jsonl")


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _value(name: str, value: Any) -> Any:
    """A value as a table of text would have it; None of what says nothing, or cannot be a text."""
    if name in _LISTS:
        items = value.split() if isinstance(value, str) else value
        return [item for item in items if item is not None] or None if isinstance(items, list) else None
    convert = next((how for kind, how in _TEXTS.items() if isinstance(value, kind)), None)
    text = convert(value) if convert is not None else None
    return int(text) if name == "quantity" and text and text.isdecimal() else text


def _number(value: float) -> str | None:
    if not math.isfinite(value):
        return None  # what pandas writes where there is nothing
    return str(int(value)) if value.is_integer() else repr(value)


_TEXTS: dict[type, Callable[[Any], str | None]] = {
    str: lambda value: value.strip() or None,
    bool: lambda value: str(value).lower(),
    int: str,
    float: _number,
    Decimal: lambda value: f"{value:f}",
    date: lambda value: str(value.isoformat()),
    time: lambda value: str(value.isoformat()),
}
"""In this order: a bool is an int, too."""
