"""What a person does in Prefect's UI, in a real browser: blocks, a run, its pictures, its page in S3.

With SCREENSHOTS=FOLDER it leaves a picture of each step there (`make screenshots`: those of the docs).
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import MISSING, Chromium, chromium
from deployed import DEPLOYMENTS
from prefect_server_process import NO_WEB

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [
    pytest.mark.server,
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=f"missing: {MISSING}"),
]
HOSTILE = "<img src=x onerror=alert(1)>|**b**"
REFUSED = "a naked lunch"
LONG = "a lighthouse in fog, gouache, " * 134 + "and gulls"
PATIENCE = 120_000
"""Milliseconds: others work on this machine, too."""


@contextmanager
def _stack(home: Path) -> Iterator[dict[str, Any]]:
    command = [sys.executable, str(DEPLOYMENTS / "ui.py"), "--json", "--no-blocks", "--port", "0"]
    with (home.parent / "ui.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--home", str(home)],
            env={**os.environ, **NO_WEB},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, (home.parent / "ui.log").read_text()
            yield json.loads(line)
        finally:
            process.terminate()
            process.wait(90)
            process.stdout.close()


class Person:
    """Someone in front of the browser, who presses a button again if Prefect says that it is busy.

    Args:
        chrome: The browser.
        where: What `ui.py --json` says.
        pictures: Where screenshots go.
    """

    def __init__(self, chrome: Chromium, where: dict[str, Any], pictures: Path) -> None:
        self.where = where
        self.pictures = pictures
        self.page: Page = chrome.new_page(1280, 900)
        self.page.set_default_timeout(PATIENCE)
        self._taken = 0

    def log_in(self, page: Page) -> None:
        """Give the server its password, which the browser then keeps."""
        page.goto(self.where["ui"])
        page.locator("input[type=password]").fill(self.where["auth"])
        page.get_by_role("button", name="Login").click()
        page.wait_for_url("**/dashboard**", wait_until="commit")

    def ask(self, path: str, body: Any) -> Any:
        """Ask Prefect's API."""
        token = base64.b64encode(self.where["auth"].encode()).decode()
        return self.page.request.post(
            f"{self.where['api']}/{path}", data=body, headers={"Authorization": f"Basic {token}"}
        ).json()

    def look(self, name: str, *, whole: bool = False) -> None:
        """Take a picture of the page."""
        self._taken += 1
        self.page.wait_for_timeout(500)  # notices slide in, cards fade in: for the picture only
        self.page.screenshot(path=self.pictures / f"{self._taken:02}-{name}.png", full_page=whole)

    def press(self, name: str, until: Locator) -> None:
        """Press a button until something appears."""
        for _ in range(10):
            self.page.get_by_role("button", name=name, exact=True).last.click()
            try:
                until.wait_for(timeout=15_000)
            except Exception:  # the server's database was locked
                continue
            return
        until.wait_for()

    def new_block(self, kind: str, name: str, **fields: str) -> None:
        """Fill in a block's form, and save it."""
        page = self.page
        page.goto(f"{self.where['ui']}/v2/blocks/catalog/{kind}/create")
        page.get_by_label("Name", exact=True).fill(name)
        for label, text in fields.items():
            page.get_by_label(re.compile(f"^{label.replace('_', ' ')}( \\(Optional\\))?$")).fill(text)

    def choose(self, block: str, place: int = 0) -> None:
        """Choose a block from a form's list."""
        self.pick(self.page.locator("button:has-text('Select a block')").nth(place), block)

    def pick(self, list_: Locator, name: str) -> None:
        """Open a list until it stays open, which a form that is drawn anew may close; take an entry."""
        option = self.page.get_by_role("option", name=name, exact=True)
        for _ in range(10):
            list_.click()
            try:
                option.click(timeout=15_000)
            except Exception:
                continue
            return
        option.click()

    def save(self) -> None:
        """Save a block."""
        self.press("Save", self.page.get_by_text("Paste this snippet"))

    def run(self, *prompts: str) -> None:
        """Fill in the deployment's form, submit it, and go to the run."""
        page = self.page
        page.goto(self.where["run_forms"]["prompt-list"])
        rows = page.locator("main textarea")
        page.get_by_role("button", name="Add item").first.wait_for()
        rows.nth(0).fill(prompts[0])
        rows.nth(1).fill(prompts[1])
        for place, prompt in enumerate(prompts[2:], 3):  # after the aspect ratio of the second
            page.get_by_role("button", name="Add item").first.click()
            rows.nth(place).fill(prompt)
        self.choose("default")
        self.choose("nanobanana")
        self.pick(page.locator("main button:has-text('plain')").last, "signed")
        self.look("run-form", whole=True)
        view = page.get_by_role("button", name="View run").or_(page.get_by_role("link", name="View run"))
        self.press("Submit", view.first)
        view.first.click()
        page.wait_for_url("**/runs/flow-run/**", wait_until="commit")

    def tab(self, name: str, until: Locator) -> None:
        """Open a tab of the run's page, and load it anew until something appears: not all tabs move."""
        for _ in range(20):
            self.page.get_by_role("tab", name=name).click()
            try:
                until.first.wait_for(timeout=8_000)
            except Exception:
                self.page.reload()
                continue
            return
        until.first.wait_for()


def _loaded(pictures: Locator, count: int) -> list[int]:
    """The widths of so many pictures, once they have really been loaded; 0 for those that never are."""
    end = time.monotonic() + PATIENCE / 1000
    while True:
        # The page may draw itself anew meanwhile: all are looked at in one go.
        widths: list[int] = pictures.evaluate_all(
            "all => Promise.all(all.map(e => e.decode().catch(() => 0).then(() => e.naturalWidth)))"
        )
        if (len(widths) == count and all(widths)) or time.monotonic() > end:
            return widths
        pictures.page.wait_for_timeout(200)


def test_from_the_first_block_to_the_page_in_s3(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    pictures = Path(os.environ.get("SCREENSHOTS") or tmp_path / "screenshots")
    pictures.mkdir(parents=True, exist_ok=True)
    with _stack(tmp_path / "home") as where, chromium() as chrome:
        person = Person(chrome, where, pictures)
        page = person.page
        api, s3 = where["nano_banana"], where["s3"]

        person.log_in(page)
        # The blocks, with a wrong key.
        settings = {"API_key": "nb_wrong", "Base_URL": api["base_url"], "Requests_at_once": "3"}
        person.new_block("nano-banana-credentials", "default", **settings)
        person.look("credentials-block", whole=True)
        person.save()
        assert "nb_wrong" not in page.locator("main").inner_text()
        person.new_block("nano-banana-generator", "default")
        person.choose("default")
        person.look("generator-block", whole=True)
        person.save()
        keys = {"Minio_Root_User": s3["access_key"], "Minio_Root_Password": s3["secret_key"]}
        person.new_block("minio-credentials", "pictures", **keys, Endpoint_URL=s3["endpoint_url"])
        person.save()
        person.new_block("s3-bucket", "nanobanana", Bucket_Name=s3["bucket"])
        page.get_by_text("MinIOCredentials", exact=True).click()
        person.choose("pictures")
        person.look("bucket-block", whole=True)
        person.save()

        # The mistake is answered in the run's log, with what to mend.
        person.run("a cat", "a dog")
        person.tab("Logs", page.get_by_text("put the right key into the Nano Banana Credentials block"))
        person.look("wrong-key")

        # The right key.
        page.goto(f"{where['ui']}/v2/blocks")
        page.get_by_role("link", name="default").first.wait_for()
        found = person.ask("block_documents/filter", {})
        (block,) = [d for d in found if d["block_type"]["slug"] == "nano-banana-credentials"]
        page.goto(f"{where['ui']}/v2/blocks/block/{block['id']}/edit")
        page.get_by_label("API key").fill(api["api_key"])
        person.save()

        # A run, watched.
        person.run(LONG, REFUSED, HOSTILE)
        person.tab("Artifacts", page.get_by_text(re.compile(r"\d of 3 prompts")))
        person.look("run-goes-on")
        page.locator("main").get_by_text("Completed", exact=True).first.wait_for()
        done = page.get_by_text("3 of 3 prompts: 2 stored, 1 warning; 3 credits spent")
        person.tab("Artifacts", done)
        strip = page.locator("main img[src^='data:image/webp']")
        person.tab("Artifacts", strip.nth(1))  # it is written last, and the tab does not move
        shown = _loaded(strip, 2)
        assert len(shown) == 2
        assert all(shown)
        person.look("run-artifacts", whole=True)
        run = page.url.partition("?")[0]
        person.tab("Task Runs", page.locator("main").get_by_text("Warning", exact=True))
        person.look("task-runs")
        told = f"warning: '{REFUSED}': Content safety check failed; 1 credit"
        person.tab("Logs", page.get_by_text(told))
        person.look("log")

        # The gallery, the credits, the table.
        wanted = {"flow_run_id": {"any_": [run.rpartition("/")[2]]}}
        artifacts = person.ask("artifacts/filter", {"artifacts": wanted})
        (account,) = [a for a in artifacts if a["key"].startswith("nanobanana-credits-")]
        its = [artifact for artifact in artifacts if artifact is not account]
        which = [(re.search(r"-(plan|credits)$|$", artifact["key"]), artifact) for artifact in its]
        ids = {(a["type"], found and found[1]): a["id"] for found, a in which}
        page.goto(f"{where['ui']}/v2/artifacts/artifact/{ids['markdown', 'plan']}")
        page.get_by_text("3 prompts: 3 new; 3 credits; ").first.wait_for()
        assert HOSTILE in page.locator("main").inner_text(), "to the letter"
        person.look("plan", whole=True)
        gallery = f"{where['ui']}/v2/artifacts/artifact/{ids['markdown', None]}"
        page.goto(gallery)
        cells = page.locator("main td[valign]")
        cells.locator("img").nth(1).wait_for()  # the second of two
        person.look("gallery", whole=True)
        expect(cells).to_have_count(3)
        assert [cells.nth(n).locator("img").count() for n in range(3)] == [1, 0, 1]
        assert _loaded(cells.locator("img"), 2) == [256, 256]
        assert HOSTILE in cells.nth(2).inner_text()
        assert "1 credit" in cells.nth(1).inner_text()
        assert "Content safety check failed" in cells.nth(1).inner_text()
        page.goto(f"{where['ui']}/v2/artifacts/artifact/{ids['markdown', 'credits']}")
        page.get_by_role("cell", name="all, paid by this run").wait_for()
        row = page.get_by_role("row", name=re.compile("all, paid by this run"))
        expect(row.get_by_role("cell")).to_have_text(["all, paid by this run", "3", "3"])
        person.look("credits", whole=True)
        page.goto(f"{where['ui']}/v2/artifacts/artifact/{ids['table', None]}")
        page.get_by_role("cell", name="warning", exact=True).wait_for()
        person.look("results", whole=True)

        # The full picture and the page in S3, by their links.
        page.goto(gallery)
        full = page.locator("main td a").first.get_attribute("href")
        page_in_s3 = page.get_by_role("link", name="Gallery page").get_attribute("href")
        assert full
        assert page_in_s3
        assert page.request.get(full).headers["content-type"].startswith("image/")
        page.goto(page_in_s3)
        cards = page.locator("main article")
        cards.first.wait_for()
        expect(cards).to_have_count(3)
        on_page = _loaded(page.locator("main article img:visible"), 2)
        assert len(on_page) == 2
        assert all(on_page)
        person.look("page-in-s3")
        page.get_by_role("button", name=re.compile("^warning", re.I)).first.click()
        expect(cards.filter(visible=True)).to_have_count(1)
        page.get_by_text(REFUSED).first.wait_for()
        person.look("page-in-s3-filtered")

        # What the account has spent, over all runs, with a chart that has loaded.
        page.goto(f"{where['ui']}/v2/artifacts/artifact/{account['id']}")
        page.get_by_role("cell", name="refused by the safety check").wait_for()
        assert _loaded(page.locator("main img[src^='data:image/svg']"), 1) == [720]
        row = page.get_by_role("row").filter(has_text="generate_images/prompt-list")
        expect(row.get_by_role("cell").nth(1)).to_have_text("3")
        page.screenshot(path=person.pictures / "18-credits-over-runs.png", full_page=True)

        # The thumbnails outlive the stores.
        _kill_the_store(tmp_path / "home")
        fresh = chrome.new_page(1280, 900)
        fresh.set_default_timeout(PATIENCE)
        for origin in (api["base_url"].removesuffix("/api/v1"), s3["endpoint_url"]):
            fresh.route(f"{origin}/**", lambda route: route.abort())
        person.log_in(fresh)
        fresh.goto(gallery)
        thumbnails = fresh.locator("main td[valign] img")
        assert _loaded(thumbnails, 2) == [256, 256]

        alerts = [p for p in chrome.problems if not p.startswith(("console:", "request to elsewhere"))]
        assert alerts == []
        # Prefect's UI asks for its own telemetry and logos, which no name leads to here.
        elsewhere = [p for p in chrome.problems if p.startswith("request to elsewhere")]
        strange = [p for p in elsewhere if not re.search(r"amplitude|githubusercontent|sanity", p)]
        assert strange == []


def _kill_the_store(home: Path) -> None:
    killed = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"rclone" in line[0] and any(str(home).encode() in part for part in line):
            os.kill(int(folder.name), signal.SIGKILL)
            killed += 1
    assert killed == 1
