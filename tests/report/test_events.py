"""What a run tells as it goes on and at its end: events, assets and log, as the server keeps them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from prefect import get_client
from prefect_aws import S3Bucket

from prefect_nanobanana import ImagePrompt, NanoBananaGenerator
from prefect_nanobanana.flows import generate_images


def _events(prefix: str, batch: str) -> list[dict[str, Any]]:
    # The newest first: the server answers with 50 at most, and tests before this one have had theirs.
    with get_client(sync_client=True) as client:
        wanted = {"filter": {"event": {"prefix": [prefix]}, "order": "DESC"}, "limit": 50}
        found = client._client.post("/events/filter", json=wanted).raise_for_status().json()["events"]
    return [event for event in found if batch in str(event)]


def test_events_and_assets_of_a_run(
    generator: NanoBananaGenerator, bucket: S3Bucket, wait_for: Callable[..., None]
) -> None:
    batch = f"told-{bucket.bucket_folder}"
    refused, two = ImagePrompt(prompt="a naked lunch"), ImagePrompt(prompt="two dogs", quantity=2)
    prompts: list[str | ImagePrompt] = ["a cat", refused, two]
    left = generator.credentials.get_client().credits()
    generator.credentials.low_credits = int(left)
    report = generate_images(
        prompts=prompts, generator=generator, bucket=bucket, batch=batch, fail_on="never"
    )
    wait_for(lambda: _events("nanobanana.run.", batch))
    wait_for(lambda: len(_events("nanobanana.image.", batch)) == 4)
    told = _events("nanobanana.image.", batch)
    assert sorted(event["event"] for event in told) == [
        *["nanobanana.image.stored"] * 3,
        "nanobanana.image.warning",
    ]
    stored = {event["payload"]["uri"]: event for event in told if event["event"].endswith("stored")}
    assert sorted(stored) == sorted(image.uri for o in report.outcomes for image in o.images)
    assert all(event["payload"]["credits_used"] in (1, 2) for event in stored.values())
    (warning,) = (event for event in told if event["event"].endswith("warning"))
    assert warning["payload"]["position"] == 2
    assert warning["payload"]["prompt"] == "a naked lunch"
    assert warning["payload"]["credits_used"] == 1
    assert "safety" in warning["payload"]["message"].lower()
    assert warning["resource"]["prefect.resource.id"] == f"nanobanana.batch.{batch}"
    assert any(r.get("prefect.resource.role") == "flow-run" for r in warning["related"])
    (finished,) = _events("nanobanana.run.finished", batch)
    assert finished["payload"]["credits_used"] == 4
    assert finished["payload"]["stored"] == 2
    assert finished["payload"]["summary"].startswith("2 stored, 1 warning; 4 credits used")
    assert finished["payload"]["manifest_uri"] == report.manifest_uri
    wait_for(lambda: _events("nanobanana.credits.low", batch))
    (low,) = _events("nanobanana.credits.low", batch)
    assert low["payload"]["remaining_credits"] == left - 4
    assert generator.credentials.account in low["resource"]["prefect.resource.id"]
    wait_for(lambda: _events("prefect.asset.materialization.", batch))
    (asset,) = _events("prefect.asset.materialization.", batch)
    assert asset["event"] == "prefect.asset.materialization.succeeded"
    assert asset["resource"]["prefect.resource.id"] == str(report.manifest_uri).rpartition("/")[0]
    assert asset["payload"]["images"] == 3
    key = generator.credentials.api_key.get_secret_value()
    assert key not in str([told, finished, low, asset])

    again = generate_images(
        prompts=prompts, generator=generator, bucket=bucket, batch=batch, fail_on="never"
    )
    assert again.credits_used == 0
    wait_for(lambda: len(_events("nanobanana.run.finished", batch)) == 2)
    assert len(_events("nanobanana.image.", batch)) == 4, "what was told is not told again"


def test_a_batch_whose_name_no_asset_can_have_is_made_all_the_same(
    generator: NanoBananaGenerator, bucket: S3Bucket
) -> None:
    report = generate_images(prompts=["a"], generator=generator, bucket=bucket, batch="two words")
    assert report.stored == 1
    assert report.manifest_uri


def test_no_event_where_credits_are_plenty(
    generator: NanoBananaGenerator, bucket: S3Bucket, wait_for: Callable[..., None]
) -> None:
    batch = f"rich-{bucket.bucket_folder}"
    generator.credentials.low_credits = 0
    generate_images(prompts=["a"], generator=generator, bucket=bucket, batch=batch)
    wait_for(lambda: _events("nanobanana.run.finished", batch))
    assert _events("nanobanana.credits.low", batch) == []


def test_the_log_has_one_line_per_prompt(
    generator: NanoBananaGenerator, bucket: S3Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        generate_images(
            prompts=["a cat", "a naked lunch", "a dog"],
            generator=generator,
            bucket=bucket,
            fail_on="never",
        )
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("prefect.")]
    # As they stand in quotes: a run may be called 'pretty-polecat'.
    about = {word: [line for line in lines if f" {word}'" in line] for word in ("cat", "lunch", "dog")}
    assert {word: len(found) for word, found in about.items()} == {"cat": 1, "lunch": 1, "dog": 1}, lines
    assert about["lunch"][0].startswith("warning: 'a naked lunch'")
    runs = [record for record in caplog.records if record.name == "prefect.task_runs"]
    assert [r.getMessage() for r in runs if "publish" not in str(r.__dict__.get("task_name"))] == []
