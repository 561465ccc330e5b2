"""A batch that was copied to another bucket or folder, by any tool, goes on there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect_aws import S3Bucket

from prefect_nanobanana import ImagePrompt, LedgerError, NanoBananaGenerator
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

PROMPTS: list[str | ImagePrompt] = [f"a cat, number {n}" for n in range(25)]
"""Enough for the index of records to be used, which is copied, too."""


@pytest.fixture
def elsewhere(s3: LocalS3, make_bucket: Callable[..., S3Bucket]) -> S3Bucket:
    block = make_bucket(bucket_name=f"elsewhere-{uuid4().hex[:8]}", bucket_folder="new/home")
    block.credentials.get_s3_client().create_bucket(Bucket=block.bucket_name)
    return block


def _copy(s3: LocalS3, bucket: S3Bucket, to: S3Bucket, batch: str = "b") -> Path:
    """Copy a batch as tools do, which know of objects only."""
    client, here = bucket.credentials.get_s3_client(), f"{bucket.bucket_folder}/b/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket.bucket_name, Prefix=here)
    for listed in (item for page in pages for item in page["Contents"]):
        client.copy_object(
            CopySource={"Bucket": bucket.bucket_name, "Key": listed["Key"]},
            Bucket=to.bucket_name,
            Key=f"{to.bucket_folder}/{batch}/{listed['Key'].removeprefix(here)}",
        )
    return s3.folder / to.bucket_name / to.bucket_folder / batch


@pytest.mark.parametrize("batch", ["b", "renamed"])
def test_it_goes_on_where_it_was_copied_to(
    batch: str,
    s3: LocalS3,
    bucket: S3Bucket,
    elsewhere: S3Bucket,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
) -> None:
    """Nothing is paid again, and nothing names the old place any more: nor do pages and manifest."""
    sandbox.faults.queue("warning")
    generate_images(prompts=PROMPTS, generator=generator, bucket=bucket, batch="b", fail_on="never")
    there = _copy(s3, bucket, elsewhere, batch)
    for _ in range(2):
        report = generate_images(
            prompts=PROMPTS, generator=generator, bucket=elsewhere, batch=batch, fail_on="never"
        )
        assert (report.stored, report.warnings, report.credits_used) == (len(PROMPTS) - 1, 1, 0)
        assert sandbox.account.posts == len(PROMPTS)
        uris = [image.uri for outcome in report.outcomes for image in outcome.images]
        assert len(uris) == len(PROMPTS) - 1
        for uri in uris:
            assert uri.startswith(f"s3://{elsewhere.bucket_name}/new/home/{batch}/images/")
            assert (s3.folder / uri.removeprefix("s3://")).is_file()
    manifest = (there / "manifest.jsonl").read_text()
    assert len(manifest.splitlines()) == len(PROMPTS)
    for line in map(json.loads, manifest.splitlines()):
        assert all(image["uri"].startswith(f"s3://{elsewhere.bucket_name}/") for image in line["images"])
    assert f"s3://{bucket.bucket_name}/" not in (there / "index.html").read_text()


def test_new_prompts_are_asked_for_there(
    s3: LocalS3, bucket: S3Bucket, elsewhere: S3Bucket, generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    generate_images(prompts=["a"], generator=generator, bucket=bucket, batch="b")
    _copy(s3, bucket, elsewhere)
    report = generate_images(prompts=["a", "c"], generator=generator, bucket=elsewhere, batch="b")
    assert (report.stored, report.credits_used, sandbox.account.posts) == (2, 1, 2)


@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_records_that_were_copied_without_their_images_are_refused(
    harm: str,
    s3: LocalS3,
    bucket: S3Bucket,
    elsewhere: S3Bucket,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
) -> None:
    """Else the report would show pictures that are not there; with them there it goes on."""
    generate_images(prompts=["a"], generator=generator, bucket=bucket, batch="b")
    (image,) = (_copy(s3, bucket, elsewhere) / "images").iterdir()
    client, content = elsewhere.credentials.get_s3_client(), image.read_bytes()
    there: Any = {"Bucket": elsewhere.bucket_name, "Key": f"new/home/b/images/{image.name}"}
    if harm == "cut":
        client.put_object(**there, Body=content[:-1])
    else:
        client.delete_object(**there)
    uri = re.escape(f"s3://{elsewhere.bucket_name}/{there['Key']}")
    with pytest.raises(LedgerError, match=f"{uri} is not the same.*copy the images, too"):
        generate_images(prompts=["a", "c"], generator=generator, bucket=elsewhere, batch="b")
    assert sandbox.account.posts == 1
    client.put_object(**there, Body=content)
    assert generate_images(prompts=["a"], generator=generator, bucket=elsewhere, batch="b").stored == 1
