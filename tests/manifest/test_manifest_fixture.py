"""What version 1 of the manifest, picks and derived images look like is read by every later version."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from earlier import FIXTURE
from prefect_aws import S3Bucket

from prefect_nanobanana.derived import DerivedImages
from prefect_nanobanana.flows import publish_batches
from prefect_nanobanana.manifest._reader import read_prompts
from prefect_nanobanana.manifest._rows import image_rows
from prefect_nanobanana.picks import Picks, read_decisions
from prefect_nanobanana.s3 import ObjectStore

BATCH = FIXTURE.parent / "v0_2/batch"
FOLDER = "t-89854c2a"


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (BATCH / name).read_text("utf-8").split("\n") if line]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=_time))


def _time(value: datetime) -> str:
    return value.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _known(told: Any, read: Any) -> Any:
    """What was told, of what is read: a later version may have more columns."""
    if isinstance(told, dict):
        return {name: _known(value, read[name]) for name, value in told.items()}
    if isinstance(told, list):
        return [_known(*pair) for pair in zip(told, read, strict=True)]
    return read


def test_its_manifest_is_read() -> None:
    told = _lines("manifest.jsonl")
    read = list(read_prompts("b", "manifest.jsonl", (BATCH / "manifest.jsonl").read_bytes()))
    assert _known(told, _plain(read)) == told
    images = _lines("images.jsonl")
    assert _known(images, _plain(list(image_rows(read)))) == images


@pytest.fixture
def stored(make_bucket: Callable[..., S3Bucket]) -> S3Bucket:
    bucket = make_bucket(bucket_folder=FOLDER)
    store = ObjectStore(bucket)
    for path in BATCH.rglob("*.json*"):
        key = store.key("b", path.relative_to(BATCH).as_posix())
        store.put(key, path.read_bytes(), "application/json")
    return bucket


def test_its_picks_and_derived_images_are_read(stored: S3Bucket) -> None:
    store = ObjectStore(stored)
    picks = Picks(store, "b").read()
    assert sorted(pick.picked for pick in picks.values()) == [False, True, True, True]
    images = {(row["prompt_key"], row["place"]): row["sha256"] for row in _lines("images.jsonl")}
    decided = read_decisions((BATCH / "picks.json").read_bytes(), "picks", "b", images)
    assert {known: each.picked for known, each in decided.items()} == {
        known: pick.picked for known, pick in picks.items()
    }
    assert len(DerivedImages(store, "b").read()) == 4


@pytest.mark.usefixtures("prefect_server")
def test_its_records_make_the_same_manifest(stored: S3Bucket) -> None:
    assert publish_batches(bucket=stored) == ["b"]
    store = ObjectStore(stored)
    found = store.find(store.key("b/manifest.jsonl"))
    assert found is not None
    rows = [json.loads(line) for line in found[0].decode().split("\n") if line]
    told = _lines("manifest.jsonl")
    assert _known(told, rows) == told
