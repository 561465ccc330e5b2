"""Smaller copies of a batch's images: made once, beside the images, and said in the manifest."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prefect_aws import S3Bucket

from prefect_nanobanana import ImageNotCopied, ImagePrompt, InvalidInput, RunReport
from prefect_nanobanana.flows import derive_sizes, review_images
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]


def _rows(folder: Path, name: str = "images.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "b" / name).read_text("utf-8").splitlines()]


def test_copies_are_made_once_and_said_in_the_manifest(
    run: Run, bucket: S3Bucket, folder: Path, sandbox: Sandbox
) -> None:
    run("a", ImagePrompt(prompt="b", quantity=2))
    images = {path.name: path.read_bytes() for path in (folder / "b/images").iterdir()}
    settings: dict[str, Any] = {"batch": "b", "bucket": bucket, "widths": [24, 48]}
    assert derive_sizes(**settings, formats=["webp", "jpeg"]) == 12
    rows = _rows(folder)
    assert len(rows) == 3
    for row in rows:
        assert [(each["content_type"], each["width"]) for each in row["derived"]] == [
            *(("image/webp", 24), ("image/jpeg", 24), ("image/webp", 48), ("image/jpeg", 48)),
        ]
        for each in row["derived"]:
            content = (folder.parent / each["key"]).read_bytes()
            assert each["uri"] == f"s3://{bucket.bucket_name}/{each['key']}"
            assert (each["size_bytes"], each["sha256"]) == (
                len(content),
                hashlib.sha256(content).hexdigest(),
            )
            assert Image.open(io.BytesIO(content)).size == (each["width"], each["height"])
    assert {path.name: path.read_bytes() for path in (folder / "b/images").iterdir()} == images
    before = {path: path.stat().st_mtime_ns for path in (folder / "b/derived").iterdir()}
    assert derive_sizes(**settings, formats=["webp", "jpeg"]) == 0
    assert derive_sizes(**settings, formats=["avif"]) == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before
    run("a", ImagePrompt(prompt="b", quantity=2), "c")
    told = {row["prompt_text"]: len(row["derived"]) for row in _rows(folder)}
    assert told == {"a": 6, "b": 6, "c": 0}, "a later run goes on saying them"
    assert derive_sizes(**settings, formats=["webp"]) == 2, "of the new image alone"
    assert sandbox.account.posts == 3


def test_only_of_what_people_have_kept(run: Run, bucket: S3Bucket, folder: Path, tmp_path: Path) -> None:
    run("a", "b")
    picks = tmp_path / "picks.json"
    decided = [{**row, "picked": row["prompt_text"] == "a"} for row in _rows(folder)]
    picks.write_text(json.dumps({"version": 1, "batch": "b", "images": decided}))
    review_images(batch="b", bucket=bucket, picks=str(picks))
    assert derive_sizes(batch="b", bucket=bucket, widths=[24], only_picked=True) == 1
    assert {row["prompt_text"]: len(row["derived"]) for row in _rows(folder)} == {"a": 1, "b": 0}


def test_one_that_is_another_now_holds_up_no_other(run: Run, bucket: S3Bucket, folder: Path) -> None:
    report = run("a", "b")
    store = ObjectStore(bucket)
    store.put(report.outcomes[0].images[0].key, b"something else", "image/png")
    with pytest.raises(
        ImageNotCopied, match="1 copies made, none of 1 images; first s3://.*its hash is another"
    ):
        derive_sizes(batch="b", bucket=bucket, widths=[24])
    assert {row["prompt_text"]: len(row["derived"]) for row in _rows(folder)} == {"a": 0, "b": 1}


def test_what_a_stranger_notes_leads_nowhere_else(run: Run, bucket: S3Bucket, folder: Path) -> None:
    run("a")
    derive_sizes(batch="b", bucket=bucket, widths=[24])
    (line,) = _rows(folder, "derived.jsonl")
    store = ObjectStore(bucket)
    odd = {**line, "key": f"{bucket.bucket_folder}/b/derived/../../secret.png"}
    store.put(store.key("b/derived.jsonl"), json.dumps(odd).encode(), "text/plain")
    with pytest.raises(InvalidInput, match=r"derived.jsonl, line 1: key: is not in the batch's folder"):
        derive_sizes(batch="b", bucket=bucket, widths=[24])
    report = run("a")
    assert report.stored == 1, "a run goes on, and says it in its log"
    assert _rows(folder)[0]["derived"] == []


def test_a_batch_that_is_not_there(bucket: S3Bucket) -> None:
    with pytest.raises(InvalidInput, match="there is no batch 'b'"):
        derive_sizes(batch="b", bucket=bucket)
