"""Batches go into databases: each once, whatever came late, was resumed, or was loaded twice."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy
from galleries import gallery_item, manifest
from prefect.blocks.system import Secret
from prefect_aws import S3Bucket
from pydantic import SecretStr
from servers import FaultyS3, s3_error

from prefect_nanobanana import InvalidInput, NanoBananaGenerator, RunReport
from prefect_nanobanana.flows import daily_images
from prefect_nanobanana.manifest import changed_batches
from prefect_nanobanana.s3 import ObjectStore

pytestmark = pytest.mark.usefixtures("prefect_server")
ROOT = Path(__file__).parents[2]
Load = Callable[[], list[str]]
Query = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def day(generator: NanoBananaGenerator, bucket: S3Bucket) -> Callable[..., RunReport]:
    def call(number: int, *prompts: str) -> RunReport:
        settings: dict[str, Any] = {"generator": generator, "bucket": bucket}
        report = daily_images(prompts=list(prompts), day=date(2026, 11, number), **settings)
        assert isinstance(report, RunReport)
        return report

    return call


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "pictures.duckdb"


@pytest.fixture
def load(bucket: S3Bucket, database: Path) -> Load:
    to_duckdb = runpy.run_path(str(ROOT / "flows/to_duckdb.py"))["to_duckdb"]
    return lambda: list(to_duckdb(bucket, str(database)))


@pytest.fixture
def query(database: Path) -> Query:
    def ask(sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(database), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    return ask


COUNTS = "select batch, count(*) from images group by batch order by batch"


def test_two_days_one_resumed_and_one_late(
    day: Callable[..., RunReport], load: Load, query: Query, bucket: S3Bucket, make_bucket: Any
) -> None:
    day(24, "a", "b")
    assert load() == ["daily-2026-11-24"]
    assert load() == [], "nothing is new"
    day(25, "a")
    day(24, "a", "b", "c")
    day(20, "late")
    assert load() == ["daily-2026-11-20", "daily-2026-11-24", "daily-2026-11-25"]
    counts = [("daily-2026-11-20", 1), ("daily-2026-11-24", 3), ("daily-2026-11-25", 1)]
    assert query(COUNTS) == counts
    assert load() == []
    assert query(COUNTS) == counts
    assert query("select sum(credits_used), count(distinct prompt_key) from prompts") == [(5.0, 4)]
    assert query("select distinct flow, account is not null from prompts") == [("daily_images", True)]


def test_a_batch_that_was_resumed_without_news_is_there_once(
    day: Callable[..., RunReport], load: Load, query: Query
) -> None:
    day(24, "a")
    load()
    day(24, "a")
    load()
    assert query(COUNTS) == [("daily-2026-11-24", 1)]


def test_a_batch_of_an_earlier_version_is_loaded(
    batch_of_version_1: S3Bucket, database: Path, query: Query
) -> None:
    to_duckdb = runpy.run_path(str(ROOT / "flows/to_duckdb.py"))["to_duckdb"]
    assert to_duckdb(batch_of_version_1, str(database)) == ["spring/cards"]
    ((rows, keys),) = query("select count(*), count(prompt_key) from prompts")
    assert (rows > 20, keys) == (True, 0)


def test_columns_of_a_later_version_are_added(
    day: Callable[..., RunReport], load: Load, query: Query, database: Path
) -> None:
    day(24, "a")
    load()
    with duckdb.connect(str(database)) as connection:
        connection.execute("alter table images drop column sha256")
        connection.execute("delete from loaded")
    load()
    assert query("select length(sha256) from images") == [(64,)]


def test_a_load_that_dies_leaves_nothing_in_part(
    day: Callable[..., RunReport], load: Load, query: Query, database: Path
) -> None:
    day(24, "a", "b")
    load()
    day(24, "a", "b", "c")
    with duckdb.connect(str(database)) as connection:
        connection.execute("drop table images")
        connection.execute("create view images as select 1 as batch")
    with pytest.raises(RuntimeError, match="1 batches could not be loaded; first 'daily-2026-11-24'"):
        load()
    assert query("select count(*) from prompts") == [(2,)], "as before, and not half of the new one"
    with duckdb.connect(str(database)) as connection:
        connection.execute("drop view images")
    load()
    assert query(COUNTS) == [("daily-2026-11-24", 3)]


def _row(**changes: Any) -> bytes:
    row = json.loads(manifest([gallery_item(1)]))
    return json.dumps({**row, **changes}).encode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{}\nnot JSON\n", "manifest.jsonl, line 2: is not JSON"),
        (_row(asked_at="0001-01-01T00:00:00+14:00"), "asked_at is not a time"),
        (_row(credits_used=10**400), "credits_used is of another type"),
        (_row(images=[None]), "images is of another type"),
        (_row(images={}), "images is of another type"),
    ],
)
def test_a_manifest_that_cannot_be_read_holds_up_no_other(
    day: Callable[..., RunReport], load: Load, query: Query, bucket: S3Bucket, content: bytes, why: str
) -> None:
    day(25, "b")
    store = ObjectStore(bucket)
    store.put(store.key("a", "manifest.jsonl"), content, "text/plain")
    with pytest.raises(InvalidInput, match=why):
        load()
    assert query(COUNTS) == [("daily-2026-11-25", 1)]


@pytest.mark.parametrize(
    "content",
    [
        _row(credits_used=2**60),
        _row(message="\ud800"),
        _row(prompt_text="\x00'; drop table prompts; --"),
    ],
)
def test_an_odd_manifest_is_loaded(load: Load, query: Query, bucket: S3Bucket, content: bytes) -> None:
    store = ObjectStore(bucket)
    store.put(store.key("a 'b' \"c\"; --", "manifest.jsonl"), content, "text/plain")
    assert load() == ["a 'b' \"c\"; --"]
    assert query("select count(*) from prompts") == [(1,)]


def test_a_manifest_that_may_not_be_read_holds_up_no_other(
    day: Callable[..., RunReport], bucket: S3Bucket, make_bucket: Any, database: Path, query: Query
) -> None:
    day(24, "a")
    day(25, "b")
    endpoint = bucket.credentials.aws_client_parameters.endpoint_url
    with FaultyS3(str(endpoint)) as front:
        front.fault = lambda seen: (
            s3_error(403, "InvalidObjectState")
            if seen.method == "GET" and seen.path.endswith("24/manifest.jsonl")
            else None
        )
        other = make_bucket(endpoint_url=front.url, bucket_folder=bucket.bucket_folder)
        to_duckdb = runpy.run_path(str(ROOT / "flows/to_duckdb.py"))["to_duckdb"]
        with pytest.raises(InvalidInput, match="InvalidObjectState"):
            to_duckdb(other, str(database))
    assert query(COUNTS) == [("daily-2026-11-25", 1)]


def test_tables_of_ones_own_are_let_be(
    day: Callable[..., RunReport], load: Load, query: Query, database: Path
) -> None:
    with duckdb.connect(str(database)) as connection:
        connection.execute("create table rows as select 'zz' as batch")
        connection.execute("create table file as select 'zz' as batch")
    day(24, "a")
    load()
    assert query(COUNTS) == [("daily-2026-11-24", 1)]


def test_fields_of_a_later_version_are_added(
    day: Callable[..., RunReport], load: Load, query: Query, database: Path
) -> None:
    day(24, "a")
    load()
    with duckdb.connect(str(database)) as connection:
        smaller = "struct(uri varchar, key varchar)[]"
        connection.execute(f"alter table prompts alter column images set data type {smaller}")
        connection.execute("delete from loaded")
    day(25, "b")
    load()
    assert query("select distinct length(images[1].sha256) from prompts") == [(64,)]


def test_any_other_database_as_the_docs_say(
    day: Callable[..., RunReport], bucket: S3Bucket, tmp_path: Path
) -> None:
    text = (ROOT / "docs/manifest.md").read_text("utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "sqlalchemy" in b]
    script = tmp_path / "to_database.py"
    script.write_text(block)
    to_database = runpy.run_path(str(script))["to_database"]
    url = f"sqlite:///{tmp_path / 'pictures.db'}"
    Secret(value=SecretStr(url)).save("warehouse-url", overwrite=True)
    day(24, "a", "b")
    to_database(bucket)
    day(24, "a", "b", "c")
    day(25, "a")
    to_database(bucket)
    to_database(bucket)
    with sqlalchemy.create_engine(url).connect() as connection:
        rows = connection.execute(sqlalchemy.text(COUNTS)).fetchall()
    assert [tuple(row) for row in rows] == [("daily-2026-11-24", 3), ("daily-2026-11-25", 1)]


def test_a_store_that_lists_no_tags_is_read_each_time(
    day: Callable[..., RunReport], bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    day(24, "a")
    tags = {each.batch: each.tag for each in changed_batches(bucket, {})}
    assert list(tags) == ["daily-2026-11-24"]
    assert list(changed_batches(bucket, tags)) == []
    listed = ObjectStore.keys
    untagged = lambda *args: (each._replace(etag="") for each in listed(*args))  # noqa: E731
    monkeypatch.setattr(ObjectStore, "keys", untagged)
    (again,) = changed_batches(bucket, dict.fromkeys(tags, ""))
    assert (again.batch, again.tag) == ("daily-2026-11-24", "")
