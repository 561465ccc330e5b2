"""A batch that an earlier version wrote is resumed: nothing paid is asked for, and no key changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect_aws import S3Bucket

from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator, RunReport
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.account import GenerationRow

pytestmark = pytest.mark.usefixtures("prefect_server")
FIXTURE = Path(__file__).parents[1] / "fixtures/v0_1"
EXPECTED: dict[str, Any] = json.loads((FIXTURE / "expected.json").read_text("utf-8"))


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


def test_a_batch_of_version_1_is_resumed(
    batch_of_version_1: S3Bucket, generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    report = generate_images(
        prompts_from=str(FIXTURE / "prompts.jsonl"),
        generator=generator,
        bucket=batch_of_version_1,
        batch="spring/cards",
        fail_on="never",
    )
    assert isinstance(report, RunReport)
    asked = [key for key, each in EXPECTED.items() if each["action"] == "ask"]
    assert sandbox.account.posts == len(asked)
    told = {
        each["label"]: {
            "status": outcome.status,
            "images": len(outcome.images),
            "credits_used": outcome.credits_used,
            "reused": outcome.reused,
        }
        for each, outcome in zip(EXPECTED.values(), report.outcomes, strict=True)
    }
    assert told == {each["label"]: each["after_plain_resume"] for each in EXPECTED.values()}


@pytest.mark.parametrize("kind", [NanoBananaCredentials, NanoBananaGenerator])
def test_blocks_of_version_1_are_loaded(
    kind: type[NanoBananaCredentials] | type[NanoBananaGenerator],
) -> None:
    stored = json.loads((FIXTURE / "blocks_v1.json").read_text("utf-8"))
    data = stored["documents"][f"{kind.get_block_type_slug()}/fixture"]["data"]
    block = kind.model_validate(data)
    told = json.loads(block.model_dump_json(context={"include_secrets": True}))
    assert {name: told[name] for name in data if name != "credentials"} == {
        name: value for name, value in data.items() if name != "credentials"
    }
