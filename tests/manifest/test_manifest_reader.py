"""Manifests of all versions are read; whoever may write the bucket may have written them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from earlier import FIXTURE
from galleries import gallery_item, manifest
from prefect_aws import S3Bucket

from prefect_nanobanana import InvalidInput
from prefect_nanobanana.manifest import IMAGE_COLUMNS, PROMPT_COLUMNS, list_batches
from prefect_nanobanana.manifest._reader import read_prompts
from prefect_nanobanana.manifest._rows import Row, image_rows
from prefect_nanobanana.s3 import ObjectStore

BEFORE = (FIXTURE / "batch_v1/manifest.jsonl").read_bytes()


def _read(content: bytes) -> list[Row]:
    return list(read_prompts("b", "b/manifest.jsonl", content))


def test_a_manifest_from_before_version_1_is_read() -> None:
    before = [json.loads(line) for line in BEFORE.decode().split("\n") if line]
    rows = _read(BEFORE)
    assert [list(row) for row in rows] == [[c.name for c in PROMPT_COLUMNS]] * len(before)
    for row, told in zip(rows, before, strict=True):
        assert row["schema_version"] == 1
        assert row["batch"] == "b"
        assert (row["position"], row["status"]) == (told["position"], told["status"])
        assert row["credits_used"] == told["credits_used"]
        assert row["prompt_text"] == row["prompt"]["prompt"] == told["prompt"]["prompt"]
        assert row["message"] == told.get("message")
        assert row["prompt_key"] is row["asked_at"] is None, "nobody knows"
    images = list(image_rows(rows))
    assert [list(image) for image in images] == [[c.name for c in IMAGE_COLUMNS]] * len(images)
    assert [image["uri"] for image in images] == [i["uri"] for b in before for i in b.get("images", [])]
    assert all(image["checked"] is True for image in images)
    offset = next(i for i in images if i["key"].endswith("-2187afa3-3.png"))
    assert offset["place"] == 3, "as its name says"


def _changed(**changes: Any) -> bytes:
    row = json.loads(manifest([gallery_item(1)]))
    return json.dumps(row | changes).encode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "is not an object"),
        (_changed(schema_version=2), "has schema_version '2': update prefect-nanobanana"),
        (_changed(schema_version="<b>\x1b"), "has schema_version"),
        (_changed(credits_used="1"), "credits_used is of another type"),
        (_changed(credits_used=float("inf")), "credits_used is of another type"),
        (_changed(credits_used=True), "credits_used is of another type"),
        (_changed(position=2**63), "position is of another type"),
        (_changed(position=1.5), "position is of another type"),
        (_changed(reused=1), "reused is of another type"),
        (_changed(asked_at="soon"), "asked_at is not a time"),
        (_changed(asked_at=5), "asked_at is of another type"),
        (_changed(asked_at="0001-01-01T00:00:00+14:00"), "asked_at is not a time"),
        (_changed(images={}), "images is of another type"),
        (_changed(images=["x"]), "images is of another type"),
        (_changed(images=[{"uri": 5}]), "images.uri is of another type"),
        (_changed(generation=[]), "generation is of another type"),
        (b'{"prompt": 5}', "prompt is of another type"),
        (b'{"images": 5}', "images is of another type"),
    ],
)
def test_what_is_no_manifest_is_said_with_its_line(content: bytes, why: str) -> None:
    good = manifest([gallery_item(1)])
    with pytest.raises(InvalidInput) as caught:
        _read(good + b"\n" + content)
    (problem,) = caught.value.problems
    assert problem.startswith("b/manifest.jsonl, line 3: ")
    assert why in problem
    assert ("publish_batches" in problem) is not ("update" in problem)
    assert problem.isprintable()


def test_columns_of_a_later_package_are_passed_over() -> None:
    (row,) = _read(_changed(something_new=5))
    assert list(row) == [c.name for c in PROMPT_COLUMNS]


def test_a_manifest_without_prompts() -> None:
    assert _read(b"") == []


def test_batches_are_listed_by_their_objects(bucket: S3Bucket) -> None:
    store = ObjectStore(bucket)
    key = "0123456789abcdef01234567"
    for name in (
        f"a/records/{key}.json",
        "a/images/x-1.png",
        "a/images/x-2.png",
        "a/manifest.jsonl",
        "a/index.html",
        f"a/b c/records/{key}.json",
        "only/images/x-1.png",
        "old/manifest.jsonl",
        "nanobanana-credits/acc/x.json",
    ):
        store.put(store.key(name), b"12345", "text/plain")
    found = list_batches(store)
    assert [batch.name for batch in found] == ["a", "a/b c", "old"]
    first = found[0]
    assert (first.records, first.images, first.image_bytes) == (1, 2, 10)
    assert first.manifest is not None
    assert found[1].manifest is None


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1e", "\r\n"])
def test_a_row_is_one_line_for_everybody(end: str) -> None:
    """Python and JavaScript end lines where JSON lets a text go on."""
    content = manifest([gallery_item(1, prompt=f"a{end}b")])
    (line,) = content.decode().splitlines()
    assert json.loads(line)["prompt_text"] == f"a{end}b"
    assert _read(content)[0]["prompt_text"] == f"a{end}b"
