"""Lists of prompts in Parquet files, as data platforms write them; read by pyarrow, which is an extra.

pyarrow was taken and not polars: it is what pandas, Spark and DuckDB exchange tables with, and reads row
by row. It is imported when a list is a Parquet file, and never else.

A few bytes of such a file can stand for any amount of data. So only columns that are used are read, of
types that can be texts, within bounds that the file's own tables of contents are held to.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Collection, Iterator
from datetime import date, time
from decimal import Decimal
from itertools import count
from typing import Any

from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana._common.text import shortened
from prefect_nanobanana.errors import InvalidInput

MOST_CHARACTERS = 256 * 1024 * 1024
"""Of all values together: one that is repeated is small in the file."""
MOST_CHUNK_BYTES = 128 * 1024 * 1024
MOST_LIST_BYTES = 8 * 1024 * 1024
"""Of a column in one group of rows; texts in lists are copied for each row of a batch."""
ROWS_AT_ONCE, LISTS_AT_ONCE = 256, 16
_TYPE_CHARACTERS = 40
_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_REFERENCES = "reference_image_urls"
_INDEX = re.compile(r"__index_level_\d+__|__null_dask_index__")
"""What pandas and Dask add to frames."""


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
        if content.startswith(_ENCRYPTED):
            raise InvalidInput(f"{name}: is encrypted: write it without")
        if not content.startswith(_MAGIC):
            raise InvalidInput(f"{name}: is not a Parquet file: give it the ending of what it is")
        # A KeyError is a time zone that is none.
        self._errors = (pyarrow.ArrowException, OSError, ValueError, OverflowError, KeyError)
        try:
            schema = parquet.ParquetFile(pyarrow.BufferReader(content)).schema_arrow
            self._types = {field.name: field.type for field in schema}
            forms = {"halffloat": "e", "float": "f"}  # as pyarrow and struct call them
            self._floats = {n: forms[str(k)] for n, k in self._types.items() if str(k) in forms}
            # Else a text that stands once in the file, and in a million rows, would be copied as often.
            self._file = parquet.ParquetFile(
                pyarrow.BufferReader(content),
                read_dictionary=[name for name, kind in self._types.items() if _is_text(kind)],
                page_checksum_verification=True,  # of those that have any
            )
        except self._errors as error:
            raise self._unreadable(error) from None
        self.columns = [name for name in schema.names if not _INDEX.fullmatch(name)]

    def texts(self, columns: Collection[str]) -> list[str]:
        """Those of some columns that hold texts."""
        return [name for name in columns if _is_text(self._types[name])]

    def check(self, columns: Collection[str]) -> None:
        """Check that columns can be read as texts.

        Raises:
            InvalidInput: If one cannot; names it.
        """
        problems = []
        for name in columns:
            kind = self._types[name]
            if not (
                _is_list(kind) if name == _REFERENCES and _is_nested(kind) else not _is_nested(kind)
            ):
                wanted = "texts, or a list of them" if name == _REFERENCES else "texts or numbers"
                what = shortened(str(kind), _TYPE_CHARACTERS)
                problems.append(f"{self._name}: the column {quoted(name)} is of type {what}: {wanted}")
        if problems:
            raise InvalidInput(*problems)

    def values(self, columns: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows, numbered from 1, with some of their columns.

        Raises:
            InvalidInput: If one cannot be read.
        """
        self._check_sizes(columns)
        lists = any(_is_nested(self._types[name]) for name in columns)
        numbers, left = count(1), MOST_CHARACTERS
        batches = self._file.iter_batches(LISTS_AT_ONCE if lists else ROWS_AT_ONCE, columns=[*columns])
        while True:
            try:
                batch = next(batches, None)
            except self._errors as error:
                raise self._unreadable(error) from None
            if batch is None:
                return
            its = dict(zip(batch.schema.names, batch.columns, strict=True))
            for place in range(batch.num_rows):
                number = next(numbers)
                row = {name: self._value(number, name, its[name], place) for name in its}
                left -= sum(len(str(value)) for value in row.values())
                if left < 0:
                    raise InvalidInput(
                        f"{self._name}: holds more than {MOST_CHARACTERS} characters: split it"
                    )
                yield number, row

    def _value(self, number: int, name: str, column: Any, place: int) -> Any:
        try:
            value = column[place].as_py()
            if name == _REFERENCES and isinstance(value, list):
                return [item for item in value if item is not None] or None
            text = _text(value, self._floats.get(name))
            if name == _REFERENCES and text is not None:
                return text.split()
            return int(text) if name == "quantity" and text and text.isdecimal() else text
        except self._errors as error:
            why = " ".join(str(error).split())[:120]
            raise InvalidInput(f"{self._name}, row {number}: {name}: cannot be read ({why})") from None

    def _check_sizes(self, columns: Collection[str]) -> None:
        """Refuse what would take too much memory, before it is read."""
        wanted, metadata = set(columns), self._file.metadata
        try:
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group)
                for place in range(rows.num_columns):
                    chunk = rows.column(place)
                    path = str(chunk.path_in_schema)
                    name = path.partition(".")[0] if path not in wanted else path
                    most = MOST_CHUNK_BYTES if path in wanted else MOST_LIST_BYTES
                    if name in wanted and chunk.total_uncompressed_size > most:
                        raise InvalidInput(
                            f"{self._name}: the column {quoted(name)} has more than {most} bytes in one "
                            "group of rows: write smaller groups"
                        )
        except self._errors as error:
            if isinstance(error, InvalidInput):
                raise
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> InvalidInput:
        why = " ".join(str(error).split())[:200]
        return InvalidInput(f"{self._name}: cannot be read ({why}): write it anew, or as .csv or .jsonl")


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner))


def _is_nested(kind: Any) -> bool:
    """Whether it is of a type that no text can stand for."""
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_nested(inner) or types.is_duration(inner) or types.is_interval(inner))


def _is_list(kind: Any) -> bool:
    """Whether it is a list of texts."""
    from pyarrow import types

    return bool((types.is_list(kind) or types.is_large_list(kind)) and _is_text(kind.value_type))


def _text(value: Any, form: str | None) -> str | None:
    """A value as a table of text would have it; None of what says nothing.

    Args:
        value: The value.
        form: Of short floats, as `struct` calls it; None of all else.
    """
    if isinstance(value, bytes):  # texts, as older programs write them
        value = value.decode("utf-8")
    if form is not None and isinstance(value, float):
        value = _shortest(value, form)
    convert = next((how for each, how in _TEXTS.items() if isinstance(value, each)), None)
    if convert is None and value is not None:
        raise ValueError(f"{type(value).__name__} is no text")
    return convert(value) if convert is not None else None


def _shortest(value: float, form: str) -> float:
    """The shortest number that a few bits mean: 19.99, and not 19.989999771118164."""
    if not math.isfinite(value):
        return value
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    packed = struct.pack(form, value)
    return next((each for each in candidates if struct.pack(form, each) == packed), value)


def _number(value: float) -> str | None:
    if math.isnan(value):
        return None  # what pandas writes where there is nothing
    if math.isinf(value):
        raise ValueError("it is infinite")
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
