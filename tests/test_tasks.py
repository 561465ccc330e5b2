"""The tasks in anybody's flows, sync and async; and that Prefect's retries never pay twice."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from prefect import flow
from prefect.cache_policies import NO_CACHE
from prefect_aws import S3Bucket

from prefect_nanobanana import (
    Generation,
    ImageNotCopied,
    ImagePrompt,
    NanoBananaGenerator,
    NeverDelivered,
    StoredImage,
    UnknownOutcome,
    agenerate_image,
    copy_image_to_s3,
    generate_image,
    get_credits,
    list_models,
)
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_in_a_sync_flow(generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox) -> None:
    @flow
    def mine() -> tuple[Generation, list[StoredImage], Any, int]:
        made = generate_image(ImagePrompt(prompt="a cat", quantity=2), generator)
        stored = [
            copy_image_to_s3(url, bucket, f"mine/{n}", {"prompt": "a cat"}, ["127.0.0.1"])
            for n, url in enumerate(made.image_urls)
        ]
        models = list_models(generator.credentials)
        return made, stored, get_credits(generator.credentials), len(models)

    made, stored, credits, models = mine()
    assert made.status == "completed"
    assert credits == 98
    assert models == 4
    served = [hashlib.sha256(content).hexdigest() for content in sandbox.images.values()]
    assert [image.sha256 for image in stored] == served
    assert stored[0].key.startswith(f"{bucket.bucket_folder}/mine/0.")


def test_in_an_async_flow(generator: NanoBananaGenerator) -> None:
    @flow
    async def mine() -> list[Generation]:
        return await asyncio.gather(*(agenerate_image(text, generator) for text in "abc"))

    made = asyncio.run(mine())
    assert [generation.status for generation in made] == ["completed"] * 3


def test_mapped_over_threads(generator: NanoBananaGenerator, sandbox: Sandbox) -> None:
    from prefect import unmapped

    @flow
    def mine() -> list[Generation]:
        return generate_image.map(["a", "b", "nude"], unmapped(generator)).result()

    assert [generation.status for generation in mine()] == ["completed", "completed", "warning"]
    assert (sandbox.account.most_open, sandbox.account.refusals) == (1, 0)


def test_without_a_flow(generator: NanoBananaGenerator) -> None:
    assert generate_image("a cat", generator).status == "completed"


def test_a_warning_is_returned_and_never_retried(
    generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    made = generate_image.with_options(retries=3, retry_delay_seconds=0)("naked ape", generator)
    assert made.status == "warning"
    assert made.credits_used == 1
    assert sandbox.account.posts == 1


@pytest.mark.parametrize(
    "fault", ["reset_after", "500", "502", "cut", "bad_json", "empty", "400", "402"]
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_retries_of_prefect_never_pay_twice(
    generator: NanoBananaGenerator, sandbox: Sandbox, fault: str, kind: str
) -> None:
    """`retries=3` is what everybody writes; measured elsewhere, it pays up to four times."""
    sandbox.faults.queue(fault)
    if kind == "sync":
        state = generate_image.with_options(retries=3, retry_delay_seconds=0, cache_policy=NO_CACHE)(
            "a cat", generator, return_state=True
        )
    else:
        retried = agenerate_image.with_options(retries=3, retry_delay_seconds=0)
        state = asyncio.run(retried("a cat", generator, return_state=True))  # type: ignore[arg-type]
    assert state.is_failed()
    assert sandbox.account.posts == 1
    assert sandbox.account.charged <= 1


def test_what_was_not_charged_may_be_retried(
    generator: NanoBananaGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Exception] = [NeverDelivered("x"), UnknownOutcome("y")]

    def fail(*_: Any, **__: Any) -> Generation:
        raise tries.pop(0)

    monkeypatch.setattr(NanoBananaGenerator, "generate", fail)
    with pytest.raises(UnknownOutcome):
        generate_image.with_options(retries=3, retry_delay_seconds=0)("a cat", generator)
    assert not tries


def test_copying_says_why_not(bucket: S3Bucket) -> None:
    with pytest.raises(ImageNotCopied, match="not https"):
        copy_image_to_s3("http://127.0.0.1:1/x.png", bucket, "x")
