"""What a run tells as it goes on and at its end: events, assets and log, as the server keeps them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import get_client
from prefect.assets import Asset
from prefect_aws import S3Bucket

from prefect_nanobanana import ImagePrompt, NanoBananaGenerator
from prefect_nanobanana.flows import daily_images, generate_images
from prefect_nanobanana.models import Caller
from prefect_nanobanana.report._lineage import MOST_DEPENDENCIES, asset_key
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.pictures import draw


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
    assert asset["resource"]["prefect.resource.id"] == f"s3://pictures/{bucket.bucket_folder}"
    assert asset["payload"]["images"] == 3
    key = generator.credentials.api_key.get_secret_value()
    assert key not in str([told, finished, low, asset])

    again = generate_images(
        prompts=prompts, generator=generator, bucket=bucket, batch=batch, fail_on="never"
    )
    assert again.credits_used == 0
    wait_for(lambda: len(_events("nanobanana.run.finished", batch)) == 2)
    assert len(_events("nanobanana.image.", batch)) == 4, "what was told is not told again"


def test_assets_are_the_same_each_day_and_know_what_they_were_made_of(
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    wait_for: Callable[..., None],
    tmp_path: Path,
    sandbox: Sandbox,
) -> None:
    """As Prefect's server keeps them; lineage joins what others know of list and references."""
    store = ObjectStore(bucket)
    folder = f"s3://pictures/{bucket.bucket_folder}"
    picture = draw("a cat", seed="1", longest=32)
    store.put(store.key("brand/cat 1.png"), picture, "image/png")
    rows = [
        {"prompt": "one", "reference_image_urls": [f"{folder}/brand/cat 1.png"]},
        {
            "prompt": "two",
            "reference_image_urls": ["https://me:5ecret@refs.example/b.png?sig=5ecret&v=1"],
        },
    ]
    store.put(store.key("lists/day.jsonl"), "\n".join(map(json.dumps, rows)).encode(), "text/plain")
    settings: dict[str, Any] = {"generator": generator, "bucket": bucket}
    for day in (24, 25):
        daily_images(
            prompts=[], prompts_from=f"{folder}/lists/day.jsonl", day=date(2026, 11, day), **settings
        )
    generate_images(prompts_from=_list(tmp_path), batch="two words", **settings)

    def found() -> list[dict[str, Any]]:
        return _events("prefect.asset.materialization.", bucket.bucket_folder)

    wait_for(lambda: len(found()) == 3)
    days = {event["payload"]["partition"]: event for event in found() if "daily-" in str(event)}
    assert set(days) == {"2026-11-24", "2026-11-25"}
    for day, event in days.items():
        assert event["resource"]["prefect.resource.id"] == folder, "the same each day"
        assert event["payload"]["batch"] == f"daily-{day}"
        related = {
            r["prefect.resource.id"]
            for r in event["related"]
            if r.get("prefect.resource.role") == "asset"
        }
        assert related == {
            f"{folder}/lists/day.jsonl",
            f"{folder}/brand/cat-1.png",
            "https://refs.example/b.png",
        }
        assert event["payload"]["dependencies"] == 3
    (other,) = (event for event in found() if "two words" in str(event))
    assert f"file://{tmp_path}/list.txt" in str(other["related"])
    assert "5ecret" not in str(found())
    told = _events("prefect.asset.referenced", bucket.bucket_folder)
    assert len(told) >= 4


def _list(folder: Path) -> str:
    path = folder / "list.txt"
    path.write_text("a fox\n")
    return str(path)


@pytest.mark.parametrize(
    ("flow", "folder", "key"),
    [
        (None, "a/b", "s3://p/a/b"),
        ("generate_images", "", "s3://p"),
        ("daily_images/mornings", "a", "s3://p/a/daily_images/mornings"),
        ("daily images/every day #1", "ä b", "s3://p/ä-b/daily-images/every-day-1"),
    ],
)
def test_keys_of_assets(flow: str | None, folder: str, key: str) -> None:
    block: Any = SimpleNamespace(bucket_name="p", bucket_folder=folder)
    assert asset_key(ObjectStore(block), Caller(flow=flow)) == key
    Asset(key=key)


def test_many_references_are_named_as_far_as_the_server_takes_them(
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    wait_for: Callable[..., None],
) -> None:
    sandbox.account.credits += 100
    urls = [f"https://refs.example/{n}.png" for n in range(MOST_DEPENDENCIES + 60)]
    prompt = ImagePrompt(prompt="a", reference_image_urls=urls)
    generate_images(prompts=[prompt], generator=generator, bucket=bucket)
    wait_for(lambda: _events("prefect.asset.materialization.", bucket.bucket_folder))
    (event,) = _events("prefect.asset.materialization.", bucket.bucket_folder)
    related = [r for r in event["related"] if r.get("prefect.resource.role") == "asset"]
    assert len(related) == MOST_DEPENDENCIES
    assert event["payload"]["dependencies"] == len(urls)


def test_a_batch_in_a_folder_that_no_asset_can_have_is_made_all_the_same(
    generator: NanoBananaGenerator, make_bucket: Callable[..., S3Bucket]
) -> None:
    bucket = make_bucket(bucket_folder="/".join(["x" * 100] * 6))
    report = generate_images(prompts=["a"], generator=generator, bucket=bucket, batch="two words")
    assert report.stored == 1
    assert report.manifest_uri
    assert report.unpublished == ()


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
