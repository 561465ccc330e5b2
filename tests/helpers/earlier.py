"""What earlier versions left in their buckets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect_aws import S3Bucket

from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.account import GenerationRow

FIXTURE = Path(__file__).parents[1] / "fixtures/v0_1"


@pytest.fixture
def batch_of_version_1(sandbox: Sandbox, make_bucket: Callable[..., S3Bucket]) -> S3Bucket:
    """The batch as it lay in its bucket, and the API with what it owed."""
    books = json.loads((FIXTURE / "sandbox.json").read_text("utf-8"))
    bucket = make_bucket(bucket_folder=books["bucket_folder"])
    store, origins = ObjectStore(bucket), (books["origin"].encode(), sandbox.origin.encode())
    # Written through the server, which keeps in memory what it knows of its files.
    for path in (FIXTURE / "batch_v1").rglob("*.*"):
        key = store.key(books["batch"], path.relative_to(FIXTURE / "batch_v1").as_posix())
        content = path.read_bytes()
        content = content.replace(*origins) if path.suffix == ".json" else content
        store.put(key, content, "application/octet-stream")
    for row in books["generations"]:
        generation = GenerationRow(**{**row, "references": tuple(row["references"])})
        sandbox.account._rows[generation.generation_id] = generation
    for path in (FIXTURE / "served").rglob("*.*"):
        sandbox.images[f"/files/{path.name}"] = path.read_bytes()
    return bucket
