"""Manifests, tables and pages that a run writes, and that are written anew of the records."""

from __future__ import annotations

import builtins
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from prefect import flow
from prefect_aws import S3Bucket
from servers import FaultyS3, s3_error

from prefect_nanobanana import (
    ImagePrompt,
    InvalidInput,
    NanoBananaGenerator,
    PromptTemplate,
    RunReport,
    StorageError,
)
from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.flows import copy_pending, generate_images, publish_batches
from prefect_nanobanana.manifest import IMAGE_COLUMNS, PROMPT_COLUMNS
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]
MakeBucket = Callable[..., S3Bucket]
FILES = {"manifest.jsonl", "images.jsonl", "prompts.parquet", "images.parquet"}


def _lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "b" / name).read_text("utf-8").splitlines()]


def _table(folder: Path, name: str) -> list[dict[str, Any]]:
    table = pyarrow.parquet.read_table(io.BytesIO((folder / "b" / name).read_bytes()))
    return list(table.to_pylist())


def test_a_run_says_who_asked_for_what(
    run: Run, sandbox: Sandbox, folder: Path, generator: NanoBananaGenerator
) -> None:
    began = datetime.now(UTC)
    sandbox.faults.queue(None, "warning")
    run(
        ImagePrompt(prompt="a {thing}", aspect_ratio="16:9"),
        ImagePrompt(prompt="{thing} at night"),
        template=PromptTemplate(variables={"thing": "fox", "unused": "x"}),
        fail_on="never",
    )
    rows = _lines(folder, "manifest.jsonl")
    assert [list(row) for row in rows] == [[c.name for c in PROMPT_COLUMNS]] * 2
    row = next(row for row in rows if row["status"] == "stored")
    assert row["variables"] == [{"name": "thing", "value": "fox"}]
    assert row["model"] == "nano-banana"
    assert rows[0]["aspect_ratio"] == "16:9"
    assert rows[1]["aspect_ratio"] == "default"
    assert row["flow"] == "generate_images"
    assert row["deployment"] is None
    assert row["account"] == generator.credentials.account
    assert len(row["flow_run_id"]) == 36
    assert row["generation_id"] == row["generation"]["generation_id"]
    asked, there = (datetime.fromisoformat(row[name]) for name in ("asked_at", "stored_at"))
    assert began <= asked <= there <= datetime.now(UTC)
    (image,) = _lines(folder, "images.jsonl")
    assert list(image) == [c.name for c in IMAGE_COLUMNS]
    assert (image["prompt_key"], image["uri"]) == (row["prompt_key"], row["images"][0]["uri"])
    assert image["prompt_credits_used"] == 1
    assert (image["width"], image["place"]) == (96, 1)
    warned = next(row for row in rows if row["status"] == "warning")
    assert (warned["stored_at"], warned["images"], warned["credits_used"]) == (None, [], 1)


def test_tables_say_the_same(run: Run, folder: Path) -> None:
    run("a", ImagePrompt(prompt="b", quantity=2))
    for table, lines in (
        ("prompts.parquet", "manifest.jsonl"),
        ("images.parquet", "images.jsonl"),
    ):
        read, told = _table(folder, table), _lines(folder, lines)
        times = ("asked_at", "stored_at")
        for row in told:
            row |= {name: row[name] and datetime.fromisoformat(row[name]) for name in times}
            for image in row.get("images", ()):
                image["stored_at"] = datetime.fromisoformat(image["stored_at"])
        assert read == told
    assert len(_table(folder, "images.parquet")) == 3


BROKEN: list[type[Exception]] = [ImportError, AttributeError]


@pytest.fixture(params=BROKEN)
def without_pyarrow(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[], None]:
    """Has it be as if pyarrow were not installed, or broken."""
    error = request.param("pyarrow")

    def hide() -> None:
        found = builtins.__import__

        def refused(name: str, *args: Any, **kwargs: Any) -> Any:
            if name.partition(".")[0] == "pyarrow":
                raise error
            return found(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", refused)

    return hide


def test_without_pyarrow_no_table_is_left_behind(
    run: Run, folder: Path, without_pyarrow: Callable[[], None]
) -> None:
    """A table of an earlier run would go on saying what is not so any more."""
    run("a")
    assert {path.name for path in (folder / "b").iterdir()} >= FILES
    without_pyarrow()
    report = run("a", "c")
    assert report.unpublished == ()
    names = {path.name for path in (folder / "b").iterdir()}
    assert {"manifest.jsonl", "images.jsonl"} <= names
    assert not {"prompts.parquet", "images.parquet"} & names
    assert len(_lines(folder, "images.jsonl")) == 2


def test_what_signs_an_address_in_a_variable_is_not_kept(run: Run, folder: Path, tmp_path: Path) -> None:
    url = "https://refs.example/cat.png?X-Amz-Expires=9&X-Amz-Signature=5ca1ab1e"
    path = tmp_path / "list.csv"
    path.write_text(f"prompt,reference_image_urls,photo\na fox,{{photo}},{url}\n")
    run(prompts_from=str(path))
    (row,) = _lines(folder, "manifest.jsonl")
    assert row["variables"] == [{"name": "photo", "value": "https://refs.example/cat.png"}]
    assert row["reference_keys"] == ["https://refs.example/cat.png"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert all(b"5ca1ab1e" not in path.read_bytes() for path in files)


def test_the_outermost_flow_and_its_run_are_named(
    generator: NanoBananaGenerator, bucket: S3Bucket, folder: Path
) -> None:
    @flow(name="catalogue")
    def above() -> str:
        from prefect.runtime import flow_run

        generate_images(prompts=["a"], generator=generator, bucket=bucket, batch="b")
        return str(flow_run.get_id())

    run_id = above()
    (row,) = _lines(folder, "manifest.jsonl")
    assert (row["flow"], row["flow_run_id"]) == ("catalogue", run_id)


@pytest.mark.parametrize(
    "address",
    ["https://refs.example/cat.png?X-Amz-Signature={sig}", "https://me:{sig}@refs.example/cat.png"],
)
def test_a_variable_that_signs_an_address_is_not_kept(
    run: Run, folder: Path, tmp_path: Path, address: str
) -> None:
    """Alone it looks like any other."""
    path = tmp_path / "list.csv"
    path.write_text(f"prompt,reference_image_urls,sig,animal\na {{animal}},{address},5ca1ab1e,fox\n")
    run(prompts_from=str(path))
    (row,) = _lines(folder, "manifest.jsonl")
    assert row["variables"] == [
        {"name": "sig", "value": "..."},
        {"name": "animal", "value": "fox"},
    ]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert all(b"5ca1ab1e" not in path.read_bytes() for path in files)


def test_a_column_with_half_a_character_is_refused(run: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"prompt": "a {\\ud800} fox", "\\ud800": "red"}\n')
    with pytest.raises(InvalidInput, match="half of a character: rename it"):
        run(prompts_from=str(path))
    assert sandbox.account.posts == 0


def test_of_images_of_earlier_requests_nothing_is_said_that_is_not_theirs(
    run: Run, bucket: S3Bucket, folder: Path
) -> None:
    run(ImagePrompt(prompt="a", name="n", quantity=2))
    ledger = Ledger(ObjectStore(bucket), "b")
    (record,) = ledger.read_others(()).values()
    kept = {1: record.images[1]}
    ledger.write(record.model_copy(update={"state": "lost", "images": kept}))
    run(ImagePrompt(prompt="A2", name="n"), ask_again=["failed"])
    rows = _lines(folder, "images.jsonl")
    assert [(row["place"], row["earlier"], row["prompt_text"]) for row in rows] == [
        (1, True, None),
        (3, False, "A2"),
    ]
    assert rows[0]["generation_id"] is rows[0]["asked_at"] is None
    assert rows[1]["generation_id"]


@pytest.mark.parametrize(
    "odd", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2026-01-01T00:00:00"]
)
def test_odd_dates_of_records_keep_no_table_from_being_written(
    run: Run, bucket: S3Bucket, folder: Path, odd: str
) -> None:
    run(ImagePrompt(prompt="a", quantity=2))
    (path,) = (folder / "b/records").iterdir()
    record = json.loads(path.read_text())
    record |= {"asked_at": odd, "updated_at": odd, "stored_at": {"1": odd}}
    ObjectStore(bucket).put(
        f"{bucket.bucket_folder}/b/records/{path.name}", json.dumps(record).encode(), "text/plain"
    )
    assert publish_batches(bucket=bucket) == ["b"]
    (row,) = _table(folder, "prompts.parquet")
    (told,) = _lines(folder, "manifest.jsonl")
    assert (row["asked_at"] is None) == (told["asked_at"] is None) == (odd[:4] != "2026")
    assert row["images"][1]["stored_at"] is None


# Batches that earlier versions or killed runs left.


def test_manifests_of_an_earlier_version_are_brought_up_to_date(
    batch_of_version_1: S3Bucket, sandbox: Sandbox
) -> None:
    store = ObjectStore(batch_of_version_1)
    path = store.key("spring/cards", "manifest.jsonl")
    found = store.find(path)
    assert found is not None
    before = [json.loads(line) for line in found[0].decode().split("\n") if line]
    assert publish_batches(bucket=batch_of_version_1) == ["spring/cards"]
    assert sandbox.account.posts == 0
    found = store.find(path)
    assert found is not None
    rows = [json.loads(line) for line in found[0].decode().splitlines()]
    assert {row["schema_version"] for row in rows} == {1}
    assert _hashes(rows) == _hashes(before)
    stored = [row for row in rows if row["status"] == "stored"]
    assert stored
    assert all(row["prompt_key"] and row["asked_at"] and row["stored_at"] for row in stored)
    tables = {key.rpartition("/")[2] for key, *_ in store.keys(store.key("spring/cards") + "/")}
    assert tables >= FILES


def _hashes(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(image["sha256"] for row in rows for image in row.get("images", []))


def test_what_a_killed_run_has_made_is_published(run: Run, bucket: S3Bucket, folder: Path) -> None:
    run("a", "c")
    for name in (*FILES, "index.html"):
        (folder / "b" / name).unlink()
    assert publish_batches(bucket=bucket, batches=["b"]) == ["b"]
    assert {path.name for path in (folder / "b").iterdir()} >= {*FILES, "index.html"}
    assert [row["status"] for row in _lines(folder, "manifest.jsonl")] == ["stored"] * 2
    assert [row["reused"] for row in _lines(folder, "manifest.jsonl")] == [True] * 2


def test_a_batch_that_is_not_there_is_said(run: Run, bucket: S3Bucket) -> None:
    run("a")
    with pytest.raises(InvalidInput, match="batches: there is no batch 'c' in s3://"):
        publish_batches(bucket=bucket, batches=["b", "c"])


def test_one_that_cannot_be_published_does_not_prevent_the_others(
    run: Run, make_bucket: MakeBucket, bucket: S3Bucket, folder: Path
) -> None:
    for name in ("a1", "b"):
        run("x", batch=name)
    (folder / "a1/manifest.jsonl").unlink()
    (folder / "b/manifest.jsonl").unlink()
    endpoint = bucket.credentials.aws_client_parameters.endpoint_url
    with FaultyS3(str(endpoint)) as front:
        front.fault = lambda seen: (
            s3_error(507, "InsufficientStorage")
            if seen.method == "PUT" and "/a1/" in seen.path and seen.path.endswith("manifest.jsonl")
            else None
        )
        other = make_bucket(endpoint_url=front.url, bucket_folder=bucket.bucket_folder)
        with pytest.raises(StorageError, match="1 of 2 batches written; the log says why not of a1"):
            publish_batches(bucket=other)
    assert (folder / "b/manifest.jsonl").exists()
    assert not (folder / "a1/manifest.jsonl").exists()


def test_copy_pending_writes_tables_too(
    run: Run, generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, folder: Path
) -> None:
    report = run("a")
    ledger = Ledger(ObjectStore(bucket), "b")
    (record,) = ledger.read_others(()).values()
    ledger.write(record.model_copy(update={"state": "generated", "images": {}, "thumbnails": {}}))
    (folder / "b/images.jsonl").unlink()
    copy_pending(generator=generator, bucket=bucket)
    (image,) = _lines(folder, "images.jsonl")
    assert image["sha256"] == report.outcomes[0].images[0].sha256
