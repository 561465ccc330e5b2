"""A batch that an earlier version wrote is resumed: nothing paid is asked for, and no key changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from earlier import FIXTURE
from prefect_aws import S3Bucket

from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator, RunReport
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
EXPECTED: dict[str, Any] = json.loads((FIXTURE / "expected.json").read_text("utf-8"))


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
