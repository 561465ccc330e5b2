"""People pick: by keyboard on the page in S3, and in Prefect's form."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import MISSING, chromium
from deployed import Deployed
from prefect_aws import S3Bucket

from prefect_nanobanana import NanoBananaGenerator, StorageOptions
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox

pytestmark = [
    *(pytest.mark.server, pytest.mark.browser, pytest.mark.timeout(600)),
    pytest.mark.skipif(bool(MISSING), reason=f"missing: {MISSING}"),
]
Wait = Callable[..., None]
PROMPTS = [
    *("a lighthouse in fog", "a fox in snow", "a harbour at dusk", "a red bridge"),
    *("a tea house", "two herons", "an old tram", "a lemon tree"),
]


def _state(server: Deployed, run: str) -> str:
    return str(server.run(run)["state_name"])


def _suspended(server: Deployed, run: str, wait_for: Wait) -> None:
    wait_for(lambda: _state(server, run) == "Suspended" or server.ended(run), 240)
    assert _state(server, run) == "Suspended", server.run(run)["state"]["message"]


def _lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").split("\n") if line]


def _events(server: Deployed, name: str, batch: str) -> list[dict[str, Any]]:
    wanted = {"filter": {"event": {"name": [name]}}, "limit": 50}
    return [e for e in server.post("events/filter", wanted)["events"] if e["payload"]["batch"] == batch]


def _resume(
    server: Deployed, page: Any, run: str, fill: Callable[[Any], None], picture: Path | None = None
) -> None:
    """As people do it in Prefect's UI."""
    page.goto(f"{server.url}/v2/runs/flow-run/{run}")
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Resume").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("to decide on").first.wait_for()
    if picture is not None:
        page.wait_for_timeout(500)
        page.screenshot(path=picture)
    fill(dialog)
    for _ in range(10):  # a busy server answers 503, and nothing happened
        dialog.get_by_role("button", name="Resume").click()
        page.wait_for_timeout(5_000)
        if _state(server, run) != "Suspended":
            return


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("SCREENSHOTS") or tmp_path)


@pytest.fixture
def make_batch(generator: NanoBananaGenerator, bucket: S3Bucket) -> Callable[..., None]:
    def make(batch: str, prompts: list[str]) -> None:
        generator.credentials.max_concurrent_requests = 1
        generate_images(prompts=list(prompts), generator=generator, bucket=bucket, batch=batch)

    return make


def test_three_of_eight_are_picked_by_keyboard_on_the_page_in_s3(
    server: Deployed,
    deployed: object,
    worker: object,
    prefect_server: None,
    make_batch: Callable[..., None],
    bucket: S3Bucket,
    folder: Path,
    pictures: Path,
    sandbox: Sandbox,
    wait_for: Wait,
) -> None:
    make_batch("picked", PROMPTS)
    run = server.create_run("review", batch="picked")
    _suspended(server, run, wait_for)
    signed = ObjectStore(bucket, StorageOptions(links="signed"))
    address = signed.link(signed.key("picked", "review.html"))
    assert address is not None
    with chromium() as chrome:
        page = chrome.new_page(1280, 900)
        page.goto(address)
        page.locator("article").first.wait_for()
        assert page.locator("#decided").inner_text() == "0 kept, 0 rejected, 8 undecided."
        first = page.locator("article summary").first
        first.focus()
        page.keyboard.press("k")  # 1, on the page; the next has the focus
        page.keyboard.press("r")  # 2
        page.keyboard.press("Enter")  # 3, in the dialog
        page.locator("#decide").wait_for()
        page.keyboard.press("k")  # and on to 4
        page.locator("#title", has_text="Prompt 4").wait_for()
        page.locator("#why").fill("the left one\nis kept, r and k are letters here")
        page.locator("#why").press("Escape")
        assert page.locator("dialog").evaluate("d => d.open"), "Escape leaves the note alone"
        page.screenshot(path=pictures / "19-review.png")
        page.keyboard.press("k")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("u")  # the note stays, and it is undecided again
        page.keyboard.press("k")
        page.keyboard.press("Escape")
        page.wait_for_timeout(300)
        assert page.locator("#decided").inner_text() == "3 kept, 1 rejected, 4 undecided."
        shown = page.locator("article:not([hidden])")
        assert shown.count() == 4, "only what is undecided"
        page.get_by_role("button", name=re.compile("^any")).click()
        assert shown.count() == 8
        page.screenshot(path=pictures / "20-review-page.png")
        page.reload()
        assert page.locator("#decided").inner_text() == "3 kept, 1 rejected, 4 undecided.", "kept here"
        page.get_by_role("button", name="Hand over").click()
        page.get_by_text("Handed over. Now choose Resume").wait_for()
        # Full pictures have no link of their own here: the page says so.
        assert [p for p in chrome.problems if "Failed to load resource" not in p] == []
        ui = chrome.new_page(1280, 900)
        ui.set_default_timeout(120_000)
        _resume(server, ui, run, lambda dialog: None)
    wait_for(lambda: server.ended(run), 240)
    assert server.run(run)["state"]["message"] == "3 kept, 1 rejected, 4 undecided"
    batch = folder / "picked"
    told = {
        row["prompt_text"]: (row["picked"], row["pick_note"]) for row in _lines(batch, "images.jsonl")
    }
    note = "the left one\nis kept, r and k are letters here"
    assert told == {
        **dict.fromkeys(PROMPTS, (None, None)),
        PROMPTS[0]: (True, None),
        PROMPTS[1]: (False, None),
        PROMPTS[2]: (True, None),
        PROMPTS[3]: (True, note),
    }
    kept = sorted(path.name for path in (batch / "picked").iterdir())
    assert [name.rpartition("-")[0].rpartition("-")[0] for name in kept] == [
        *("a-harbour-at-dusk", "a-lighthouse-in-fog", "a-red-bridge"),
    ]
    assert len(list((batch / "images").iterdir())) == 8
    wait_for(lambda: len(_events(server, "nanobanana.image.picked", "picked")) == 3, 60)
    assert len(_events(server, "nanobanana.image.rejected", "picked")) == 1
    assert sandbox.account.charged == 8
    assert "X-Amz-Signature" not in (batch / "index.html").read_text("utf-8")
    stored = [path for path in batch.rglob("*") if path.is_file() and path.name != "review.html"]
    assert all(b"X-Amz-Signature" not in path.read_bytes() for path in stored)


def test_few_are_picked_in_prefects_form_and_rejected_ones_asked_for_again(
    server: Deployed,
    deployed: object,
    worker: object,
    prefect_server: None,
    make_batch: Callable[..., None],
    bucket: S3Bucket,
    folder: Path,
    pictures: Path,
    sandbox: Sandbox,
    wait_for: Wait,
) -> None:
    make_batch("form", PROMPTS[:3])
    run = server.create_run("review", batch="form", variants=1, max_credits=5)
    _suspended(server, run, wait_for)

    def choose(dialog: Any, number: int, what: str) -> None:
        dialog.get_by_label(re.compile(f"Select {number}[.]")).click()
        dialog.page.wait_for_timeout(500)  # the list moves while it opens
        dialog.page.get_by_role("option", name=what).click()
        dialog.page.wait_for_timeout(500)

    def fill(dialog: Any) -> None:
        choose(dialog, 1, "keep")
        choose(dialog, 2, "reject")

    with chromium() as chrome:
        ui = chrome.new_page(1280, 1100)
        ui.set_default_timeout(120_000)
        _resume(server, ui, run, fill, pictures / "22-review-form.png")
        key = "nanobanana-review-2"
        wait_for(lambda: key in str(server.run(run)["empirical_policy"]), 240)
        wait_for(lambda: _state(server, run) == "Suspended", 240)
        assert sandbox.account.charged == 4, "the rejected one was asked for again"

        def fill_again(dialog: Any) -> None:
            choose(dialog, 1, "reject")
            choose(dialog, 2, "keep")

        _resume(server, ui, run, fill_again)
    wait_for(lambda: server.ended(run), 240)
    assert (
        server.run(run)["state"]["message"] == "2 kept, 2 rejected, 0 undecided; 1 variants, 1 credits"
    )
    told = [(row["prompt_text"], row["picked"]) for row in _lines(folder / "form", "images.jsonl")]
    assert sorted(told) == sorted(
        [(PROMPTS[0], True), (PROMPTS[1], False), (PROMPTS[2], True), (PROMPTS[1], False)]
    ) or sorted(told) == sorted(
        [(PROMPTS[0], True), (PROMPTS[1], False), (PROMPTS[2], False), (PROMPTS[1], True)]
    )
    assert sandbox.account.charged == 4
    assert len(list((folder / "form/picked").iterdir())) == 2
    store = ObjectStore(bucket)
    assert store.head(store.key("form", "picks.jsonl")) is not None
