"""Lists of prompts in Parquet files, as data platforms write them."""

from __future__ import annotations

import datetime
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lists import NO_WEB, no_s3
from prefect_aws import S3Bucket
from pyarrow import parquet

from prefect_nanobanana import ImagePrompt, InvalidInput, PromptTemplate
from prefect_nanobanana.batch._prompts import Listed, gather_prompts
from prefect_nanobanana.s3 import ObjectStore

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of columns."""

    def call(columns: dict[str, Any], **settings: Any) -> Path:
        path = tmp_path / "list.parquet"
        parquet.write_table(pa.table(columns), path, **settings)
        return path

    return call


def gather(path: Path, template: PromptTemplate | None = None) -> list[Listed]:
    return gather_prompts([], str(path), no_s3, NO_WEB, template)


def problems(path: Path, template: PromptTemplate | None = None) -> tuple[str, ...]:
    with pytest.raises(InvalidInput) as caught:
        gather(path, template)
    return caught.value.problems


def test_rows_become_prompts(write: Write) -> None:
    path = write(
        {
            "prompt": ["a", " b ", "c"],
            "name": [1, 2, None],
            "quantity": [2.0, float("nan"), 4.0],
            "aspect_ratio": ["16:9", "", None],
            "reference_image_urls": [["https://a.example/1.png"], None, []],
        }
    )
    assert [(item.place, item.prompt) for item in gather(path)] == [
        (
            "list.parquet, row 1",
            ImagePrompt(
                prompt="a",
                name="1",
                quantity=2,
                aspect_ratio="16:9",
                reference_image_urls=["https://a.example/1.png"],
            ),
        ),
        ("list.parquet, row 2", ImagePrompt(prompt="b", name="2")),
        ("list.parquet, row 3", ImagePrompt(prompt="c", quantity=4)),
    ]


def test_other_columns_are_variables_of_whatever_type(write: Write) -> None:
    path = write(
        {
            "prompt": ["{sku} {price} {day} {at} {new} {weight} {share}"],
            "sku": pa.array([7], pa.int64()),
            "price": pa.array([Decimal("12.50")], pa.decimal128(6, 2)),
            "day": [datetime.date(2026, 11, 27)],
            "at": [datetime.time(6, 30)],
            "new": [True],
            "weight": [2.0],
            "share": pa.array([0.5], pa.float32()),
        }
    )
    assert gather(path)[0].prompt.prompt == "7 12.50 2026-11-27 06:30:00 true 2 0.5"


def test_a_table_of_products_and_a_template(write: Write) -> None:
    path = write({"title": ["cup", "bowl"], "embedding": [[0.1, 0.2], [0.3, 0.4]], "raw": [b"x", b"y"]})
    found = gather(path, PromptTemplate(text="{title} on {desk}", matrix={"desk": ["oak", "slate"]}))
    assert [item.prompt.prompt for item in found] == [
        *("cup on oak", "cup on slate"),
        *("bowl on oak", "bowl on slate"),
    ]
    (wrong,) = problems(path, PromptTemplate(text="{title} {embedding}"))
    assert wrong == (
        "list.parquet: the column 'embedding' is of type list<element: double>: texts or numbers"
    )


def test_what_cannot_be_a_text_is_refused_where_it_matters(write: Write) -> None:
    """A model or a quantity that is not understood must not become the default."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": [["x"]]}, "the column 'model' is of type list<"),
        ({"quantity": [[4]]}, "the column 'quantity' is of type list<"),
        ({"reference_image_urls": [{"path": "s3://b/a.png"}]}, "is of type struct<"),
        ({"reference_image_urls": [[1, 2]]}, "texts, or a list of them"),
        ({"quantity": [float("inf")]}, "row 1: quantity: cannot be read (it is infinite)"),
        ({"name": [b"\xff"]}, "row 1: name: cannot be read ('utf-8'"),
    ]
    for columns, said in cases:
        assert said in problems(write({"prompt": ["a"], **columns}))[0]


def test_texts_as_bytes_are_read_as_older_programs_write_them(write: Write) -> None:
    columns = {
        "prompt": ["caf\u00e9".encode()],
        "model": [b"nanobanan-2"],
        "quantity": [b"4"],
        "reference_image_urls": [b"https://a.example/1.png https://a.example/2.png"],
    }
    assert gather(write(columns))[0].prompt == ImagePrompt(
        prompt="caf\u00e9",
        model="nanobanan-2",
        quantity=4,
        reference_image_urls=["https://a.example/1.png", "https://a.example/2.png"],
    )


def test_numbers_are_written_as_they_are_meant(write: Write) -> None:
    columns = {
        "prompt": ["{price} {half} {whole}"],
        "price": pa.array([19.99], pa.float32()),
        "half": pa.array([0.1], pa.float16()),
        "whole": [3.0],
    }
    assert gather(write(columns))[0].prompt.prompt == "19.99 0.1 3"


def test_columns_that_nobody_names_are_not_looked_at(write: Write) -> None:
    """Whatever they hold; and pandas' own index is no column of the list."""
    odd = {
        "ns": pa.array([1], pa.timestamp("ns")),
        "zone": pa.array([0], pa.timestamp("us", tz="Foo/Bar")),
        "__index_level_0__": [7],
        "big": pa.array([["x" * 100] * 100]),
    }
    path = write({"title": ["cup"], **odd})
    assert gather(path, PromptTemplate(text="a {title}"))[0].prompt.prompt == "a cup"
    assert "row 1: zone: cannot be read" in problems(path, PromptTemplate(text="{zone}"))[0]
    assert gather(write({"prompt": ["a"], "__index_level_0__": [7]}))[0].prompt.prompt == "a"


def test_many_rows_of_nothing_take_no_time(write: Write) -> None:
    path = write({"title": pa.nulls(5_000_000, pa.string())})
    began = time.process_time()
    assert "there is no column 'title'" in problems(path)[0]
    path = write({"prompt": pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000), ["a"])})
    assert "there are more than 100000 prompts" in problems(path)[0]
    assert time.process_time() - began < 60, "it took minutes, and hours with larger files"


@pytest.mark.parametrize("kind", ["list", "text"])
def test_a_few_bytes_that_stand_for_much_are_refused(kind: str, write: Write) -> None:
    if kind == "list":
        refs = [["https://a.example/" + "x" * 9_000_000]] * 3
        path = write({"prompt": ["a"] * 3, "reference_image_urls": refs}, compression="zstd")
    else:
        path = write({"prompt": ["x" * 140_000_000]}, compression="zstd")
    assert path.stat().st_size < 1_000_000
    before = pa.total_allocated_bytes()
    assert "bytes in one group of rows: write smaller groups" in problems(path)[0]
    assert pa.total_allocated_bytes() - before < 50_000_000


def test_what_is_wrong_is_named_with_its_row(write: Write) -> None:
    assert problems(write({"prompt": ["a", None]})) == (
        "list.parquet, row 2: prompt: the prompt is empty: say what to draw, or remove it",
    )
    (wrong,) = problems(write({"prompt": ["a"], "quantity": [9]}))
    assert wrong.startswith("list.parquet, row 1: quantity: ")
    (unknown,) = problems(write({"prompt": ["a"], "description": ["b"]}))
    assert unknown.startswith("list.parquet: there is no column 'description': did you mean prompt?")
    (missing,) = problems(write({"text": ["a"]}))
    assert "there is no column 'text': did you mean prompt?" in missing
    (empty,) = problems(write({"prompt": pa.array([], pa.string())}))
    assert empty.startswith("list.parquet: there are no prompts in it")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "list.parquet: is empty: write it anew"),
        (b"prompt\na\n", "list.parquet: is not a Parquet file: give it the ending of what it is"),
        (b"PAR1", "list.parquet: cannot be read ("),
        (b"PAR1" + b"\xff" * 2000 + b"PAR1", "list.parquet: cannot be read ("),
    ],
)
def test_what_is_no_parquet_file(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(content)
    assert said in problems(path)[0]


def test_a_file_that_is_cut_or_damaged_is_an_error_and_nothing_else(write: Write) -> None:
    path = write({"prompt": [f"prompt {n}" for n in range(500)]})
    whole = path.read_bytes()
    for place in range(4, len(whole), max(1, len(whole) // 120)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        for content in (bytes(damaged), whole[:place]):
            path.write_bytes(content)
            try:
                gather(path)
            except InvalidInput as error:
                assert error.problems[0].startswith("list.parquet")


def test_damage_is_found_where_a_file_has_checksums(write: Write) -> None:
    path = write({"prompt": [f"prompt {n}" for n in range(500)]}, write_page_checksum=True)
    whole = path.read_bytes()
    place = whole.index(b"prompt 250") if b"prompt 250" in whole else 300
    path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    assert "cannot be read" in problems(path)[0]


def test_a_text_that_stands_once_and_is_repeated_stays_small(write: Write) -> None:
    """4 MB in the file, and 4 TB if each row had its own."""
    long = "x" * 4_000_000
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), pa.array([long]))
    path = write({"prompt": rows})
    assert path.stat().st_size < 5_000_000
    tracemalloc.start()
    assert "holds more than 268435456 characters: split it" in problems(path)[0]
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    assert pa.total_allocated_bytes() < 200_000_000
    tracemalloc.stop()


def test_from_a_bucket(bucket: S3Bucket, write: Write) -> None:
    store = ObjectStore(bucket)
    content = write({"prompt": ["a", "b"]}, compression="zstd").read_bytes()
    store.put(store.key("list.parquet"), content, "application/vnd.apache.parquet")
    uri = store.uri(store.key("list.parquet"))
    found = gather_prompts([], uri, store.uris.read, NO_WEB)
    assert [item.prompt.prompt for item in found] == ["a", "b"]


def test_without_pyarrow_the_cure_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write({"prompt": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs pyarrow: install prefect-nanobanana[parquet]" in problems(path)[0]


def test_it_is_imported_for_parquet_files_alone() -> None:
    code = "import sys, prefect_nanobanana.flows; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
