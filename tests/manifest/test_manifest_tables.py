"""Random manifests are read by pandas, Polars, DuckDB and PyArrow, with the same types and values."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow
import pyarrow.json
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_nanobanana import Generation, ImagePrompt, Outcome, StoredImage
from prefect_nanobanana.manifest import IMAGE_COLUMNS, PROMPT_COLUMNS
from prefect_nanobanana.manifest._columns import Column, ListOf, Struct, Type
from prefect_nanobanana.manifest._jsonl import jsonl
from prefect_nanobanana.manifest._parquet import parquet
from prefect_nanobanana.manifest._reader import read_prompts
from prefect_nanobanana.manifest._rows import Row, image_rows, prompt_rows
from prefect_nanobanana.models import Caller, ImageRequest, Origin, Provenance, Try
from prefect_nanobanana.report import GalleryItem

TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=12
)
MAYBE = st.none() | TEXT
CREDITS = st.integers(0, 10**6) | st.decimals(0, 1000, places=3).map(Decimal)
TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
SIZES = st.integers(0, 2**53 - 1)


@st.composite
def images(draw: st.DrawFn) -> StoredImage:
    checked = draw(st.booleans())
    key = draw(TEXT)
    return StoredImage(
        uri=f"s3://b/{key}",
        key=key,
        content_type=draw(TEXT),
        size_bytes=draw(SIZES),
        sha256=draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        width=draw(SIZES) if checked else 0,
        height=draw(SIZES) if checked else 0,
        source_url="https://images.example/1",
        checked=checked,
    )


@st.composite
def items(draw: st.DrawFn, position: int) -> GalleryItem:
    words = draw(TEXT.filter(str.strip))
    urls = [f"https://images.example/{n}" for n in range(draw(st.integers(0, 3)))]
    prompt = ImagePrompt(
        prompt=words,
        name=draw(MAYBE),
        model=draw(MAYBE),
        reference_image_urls=draw(st.sampled_from([None, urls])),
    )
    generation = st.builds(
        Generation,
        status=st.sampled_from(["completed", "warning", "failed"]),
        generation_id=MAYBE,
        image_urls=st.just(tuple(urls)),
        credits_used=st.none() | CREDITS,
        remaining_credits=st.none() | CREDITS,
        message=MAYBE,
    )
    stored = tuple(draw(st.lists(images(), max_size=3)))
    tries = st.builds(
        Try, model=TEXT, status=st.sampled_from(["stored", "warning"]), credits_used=CREDITS
    )
    outcome = Outcome(
        position=position,
        prompt=prompt,
        status=draw(st.sampled_from(["stored", "warning", "failed", "unknown", "skipped"])),
        generation=draw(st.none() | generation),
        images=stored,
        credits_used=draw(CREDITS),
        credits_at_risk=draw(CREDITS),
        reused=draw(st.booleans()),
        message=draw(MAYBE),
        tries=tuple(draw(st.lists(tries, max_size=2))),
    )
    origin = Provenance(
        key="0123456789abcdef01234567",
        request=ImageRequest(prompt=words, quantity=draw(st.integers(-(2**53), 2**53) | st.just(2**70))),
        variables=tuple(draw(st.lists(st.tuples(TEXT, TEXT), max_size=2))),
        asked_at=draw(st.none() | TIMES),
        caller=Caller(flow=draw(st.sampled_from([None, "f", "f/d"])), account=draw(MAYBE)),
        flow_run_id=draw(MAYBE),
        images=tuple(Origin(n, draw(st.none() | TIMES)) for n in range(1, len(stored) + 1)),
    )
    return GalleryItem(outcome, provenance=draw(st.none() | st.just(origin)))


@st.composite
def batches(draw: st.DrawFn) -> list[GalleryItem]:
    return [draw(items(position)) for position in range(1, draw(st.integers(0, 6)) + 1)]


def _exact(value: Any) -> Any:
    """Numbers and times as they are compared: readers have kinds of their own."""
    if isinstance(value, dict):
        return {name: _exact(each) for name, each in value.items()}
    if isinstance(value, list | tuple) or type(value).__name__ in ("ndarray", "Series"):
        return [_exact(each) for each in value]
    if value is None or value is pandas.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, datetime | pandas.Timestamp):
        return value.astimezone(UTC).timestamp()
    return value


def _duck(kind: Type) -> str:
    match kind:
        case ListOf(item):
            return f"{_duck(item)}[]"
        case Struct(columns):
            return f"STRUCT({', '.join(f'{c.name} {_duck(c.type)}' for c in columns)})"
        case _:
            return {
                "string": "VARCHAR",
                "int64": "BIGINT",
                "double": "DOUBLE",
                "boolean": "BOOLEAN",
                "timestamp": "TIMESTAMP WITH TIME ZONE",
            }[kind]


def _polars(kind: Type) -> Any:
    match kind:
        case ListOf(item):
            return polars.List(_polars(item))
        case Struct(columns):
            return polars.Struct({c.name: _polars(c.type) for c in columns})
        case _:
            return {
                "string": polars.String,
                "int64": polars.Int64,
                "double": polars.Float64,
                "boolean": polars.Boolean,
                "timestamp": polars.Datetime("us", "UTC"),
            }[kind]


def _pyarrow(kind: Type) -> Any:
    match kind:
        case ListOf(item):
            return pyarrow.list_(_pyarrow(item))
        case Struct(columns):
            return pyarrow.struct([(c.name, _pyarrow(c.type)) for c in columns])
        case _:
            return {
                "string": pyarrow.string(),
                "int64": pyarrow.int64(),
                "double": pyarrow.float64(),
                "boolean": pyarrow.bool_(),
                "timestamp": pyarrow.timestamp("us", "UTC"),
            }[kind]


def _both(batch: Sequence[GalleryItem]) -> list[tuple[tuple[Column, ...], list[Row]]]:
    prompts = list(prompt_rows("b", batch))
    return [(PROMPT_COLUMNS, prompts), (IMAGE_COLUMNS, list(image_rows(prompts)))]


random_batches = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@random_batches
@given(batches())
def test_pyarrow(batch: list[GalleryItem]) -> None:
    for columns, rows in _both(batch):
        table = pyarrow.parquet.read_table(io.BytesIO(parquet(iter(rows), columns)))
        assert [(f.name, f.type) for f in table.schema] == [(c.name, _pyarrow(c.type)) for c in columns]
        assert _exact(table.to_pylist()) == _exact(rows)


@random_batches
@given(batches())
def test_polars(batch: list[GalleryItem]) -> None:
    for columns, rows in _both(batch):
        frame = polars.read_parquet(io.BytesIO(parquet(iter(rows), columns)))
        assert dict(frame.schema) == {c.name: _polars(c.type) for c in columns}
        assert _exact(frame.to_dicts()) == _exact(rows)


@random_batches
@given(batches())
def test_duckdb(tmp_path: Path, batch: list[GalleryItem]) -> None:
    for columns, rows in _both(batch):
        path = tmp_path / "rows.parquet"
        path.write_bytes(parquet(iter(rows), columns))
        with duckdb.connect() as connection:
            found = connection.execute("select * from read_parquet(?)", [str(path)])
            told = [(c[0], str(c[1]).replace('"', "")) for c in found.description or ()]
            assert told == [(c.name, _duck(c.type)) for c in columns]
            names = [name for name, _ in told]
            read = [dict(zip(names, values, strict=True)) for values in found.fetchall()]
        assert _exact(read) == _exact(rows)


@random_batches
@given(batches())
def test_pandas(batch: list[GalleryItem]) -> None:
    for columns, rows in _both(batch):
        content = parquet(iter(rows), columns)
        frame = pandas.read_parquet(io.BytesIO(content))
        assert list(frame.columns) == [c.name for c in columns]
        assert _exact(frame.to_dict("records")) == _exact(rows)
        exact = pandas.read_parquet(io.BytesIO(content), dtype_backend="pyarrow")
        types = {name: kind.pyarrow_dtype for name, kind in exact.dtypes.items()}
        assert types == {c.name: _pyarrow(c.type) for c in columns}


@random_batches
@given(batches())
def test_json_lines(tmp_path: Path, batch: list[GalleryItem]) -> None:
    """JSON says no types; but every reader finds every column, and what is in it."""
    for columns, rows in _both(batch):
        if not rows:
            continue
        content = jsonl(rows)
        lines = [json.loads(line) for line in content.decode().split("\n")[:-1]]
        names = [c.name for c in columns]
        assert [list(line) for line in lines] == [names] * len(rows)
        path = tmp_path / "rows.jsonl"
        path.write_bytes(content)
        value = "credits_used" if columns is PROMPT_COLUMNS else "size_bytes"
        chosen = ["position", "status", value]
        told = [tuple(line[name] for name in chosen) for line in lines]
        with duckdb.connect() as connection:
            found = connection.execute("select * from read_json(?, sample_size=-1)", [str(path)])
            assert [c[0] for c in found.description or ()] == names
            places = [names.index(name) for name in chosen]
            assert [tuple(row[p] for p in places) for row in found.fetchall()] == told
        frame = polars.read_ndjson(path, infer_schema_length=None)
        assert set(frame.columns) == set(names)  # it has them in an order of its own
        assert frame.select(chosen).rows() == told
        as_written: Any = {"dtype": False, "precise_float": True}
        pandas_frame = pandas.read_json(path, lines=True, **as_written)
        assert list(pandas_frame.columns) == names
        assert [tuple(row) for row in pandas_frame[chosen].itertuples(index=False)] == told
        table = pyarrow.json.read_json(path)
        assert set(table.column_names) == set(names)
        assert table["status"].to_pylist() == [line["status"] for line in lines]


@random_batches
@given(batches())
def test_what_is_written_is_read(batch: list[GalleryItem]) -> None:
    rows = list(prompt_rows("b", batch))
    read = list(read_prompts("b", "manifest.jsonl", jsonl(rows)))
    assert _exact(read) == _exact(rows)


@pytest.mark.parametrize("columns", [PROMPT_COLUMNS, IMAGE_COLUMNS])
def test_names_are_such_as_warehouses_take(columns: tuple[Column, ...]) -> None:
    """BigQuery and Athena: letters, digits and underscores, no digit first, all different."""

    def names(columns: tuple[Column, ...]) -> list[str]:
        found = []
        for column in columns:
            found.append(column.name)
            kind = column.type.item if isinstance(column.type, ListOf) else column.type
            if isinstance(kind, Struct):
                assert len({c.name for c in kind.columns}) == len(kind.columns)
                found += names(kind.columns)
        return found

    for name in names(columns):
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,127}", name)
        assert name.lower() not in {"group", "order", "select", "from", "table", "values"}
    top = [column.name for column in columns]
    assert len(set(top)) == len(top)
