"""References that are signed anew each day: a batch is paid once, whichever version began it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect_aws import S3Bucket

from prefect_nanobanana import ImagePrompt, InvalidInput, NanoBananaGenerator, RunReport
from prefect_nanobanana.batch._keys import prompt_keys
from prefect_nanobanana.models import Credits
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]
REFERENCE = "https://host.example/ref.png"


def _signed(day: int, version: int = 2) -> ImagePrompt:
    signature = f"X-Amz-Date=2026110{day}T000000Z&X-Amz-Signature={'abcdef'[day] * 64}"
    url = f"{REFERENCE}?v={version}&{signature}"
    return ImagePrompt(prompt="put a hat on it", reference_image_urls=[url])


def _counts(report: RunReport) -> tuple[int, Credits, Credits]:
    return report.stored, report.credits_used, report.credits_reused


def test_a_new_signature_pays_for_nothing(run: Run, sandbox: Sandbox, folder: Path) -> None:
    assert _counts(run(_signed(1), _signed(1, 3), _signed(1))) == (3, 3, 0)
    assert _counts(run(_signed(2), _signed(2, 3), _signed(3))) == (3, 0, 3)
    assert _counts(run(_signed(4, 3), _signed(4), _signed(4), _signed(4))) == (4, 1, 3)
    assert sandbox.account.charged == 4
    assert len(list((folder / "b/records").iterdir())) == 4


@pytest.mark.parametrize("days", [(1, 1), (1, 2), (1, 2, 1, 3)])
def test_a_batch_that_an_earlier_version_began(
    run: Run,
    sandbox: Sandbox,
    folder: Path,
    bucket: S3Bucket,
    generator: NanoBananaGenerator,
    days: tuple[int, ...],
) -> None:
    """Its records are under keys of the first day's signatures; the list is signed anew."""
    store = ObjectStore(bucket)
    first = [_signed(days[0]), _signed(days[0]), _signed(days[0], 3)]
    assert _counts(run(*first)) == (3, 3, 0)
    for key in prompt_keys(first, [generator.request(prompt) for prompt in first]):
        found = store.find(store.key("b/records", f"{key.key}.json"))
        assert found is not None
        record = json.loads(found[0]) | {"key": key.former[0]}
        body, path = json.dumps(record).encode(), store.key("b/records", f"{key.former[0]}.json")
        store.put(path, body, "application/json")
        client = bucket.credentials.get_s3_client()
        client.delete_object(Bucket=store.name, Key=store.key("b/records", f"{key.key}.json"))
    for day in days[1:]:
        assert _counts(run(_signed(day, 3), _signed(day), _signed(day))) == (3, 0, 3)
    assert sandbox.account.charged == 3
    assert len(list((folder / "b/records").iterdir())) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": [ImagePrompt(prompt="a", reference_image_urls=["https://10.0.0.1/a.png"])]},
        {"prompts": ["a\x1b[31m"]},
        {"prompts": ["a"], "batch": "b/images"},
        {"prompts": ["a"], "prompts_from": "http://127.0.0.2:9/latest#x.txt"},
    ],
)
def test_what_cannot_work_stops_the_run_before_it_spends(
    run: Run, sandbox: Sandbox, folder: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput):
        run(*changes.pop("prompts"), **changes)
    assert sandbox.account.posts == 0
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize("wrong", ["a\0b", "a\x1b]0;x\x07"])
def test_nor_does_a_single_generation_begin(
    generator: NanoBananaGenerator, sandbox: Sandbox, wrong: str
) -> None:
    with pytest.raises(InvalidInput, match=r"prompt: character 2 is the control character"):
        generator.generate(wrong)
    with pytest.raises(InvalidInput, match=r"reference_image_urls: .* is a private address"):
        generator.generate("a", reference_image_urls=["http://localhost/a.png"])
    assert sandbox.account.posts == 0
