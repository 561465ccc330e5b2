"""Rows as Parquet, by pyarrow, which is an extra and imported when it is used.

pyarrow, and not Polars: it is what pandas, DuckDB and Spark exchange such files with, and it is the
extra already that reads lists of prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from prefect_nanobanana.manifest._columns import Column, ListOf, Struct, Type
from prefect_nanobanana.manifest._rows import Row

CONTENT_TYPE = "application/vnd.apache.parquet"
_ROWS_AT_ONCE = 5_000
"""Of a group: small enough to hold, large enough to compress well."""


def can_write() -> bool:
    """Whether pyarrow is installed, and can be imported, which takes a while."""
    try:
        import pyarrow.parquet  # noqa: F401
    except Exception:  # a broken one raises all kinds of errors
        return False
    return True


def parquet(rows: Iterable[Row], columns: Sequence[Column]) -> bytes:
    """The rows as a Parquet file.

    Args:
        rows: The rows.
        columns: Their columns.
    """
    import pyarrow
    from pyarrow import parquet as files

    schema = pyarrow.schema([_field(column) for column in columns])
    sink, left = pyarrow.BufferOutputStream(), iter(rows)
    with files.ParquetWriter(sink, schema) as writer:
        while group := list(islice(left, _ROWS_AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _field(column: Column) -> Any:
    import pyarrow

    return pyarrow.field(column.name, _type(column.type), metadata={"description": column.about})


def _type(kind: Type) -> Any:
    import pyarrow

    match kind:
        case ListOf(item):
            return pyarrow.list_(_type(item))
        case Struct(columns):
            return pyarrow.struct([_field(column) for column in columns])
        case "timestamp":
            return pyarrow.timestamp("us", tz="UTC")
        case "string":
            return pyarrow.string()
        case "int64":
            return pyarrow.int64()
        case "double":
            return pyarrow.float64()
        case "boolean":
            return pyarrow.bool_()
