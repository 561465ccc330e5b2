"""The gallery page as people see it: in Chromium, from a folder, a bucket and a presigned link."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import MISSING, Chromium, chromium
from galleries import HEBREW, LINES, PIXELS, PROMPTS, dozens, gallery_item, write
from servers import Reply, Scripted, Seen

from prefect_nanobanana.images._picture import THUMBNAIL_PIXELS
from prefect_nanobanana.report import GalleryItem, _gallery

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}"),
]
SIGNATURE = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=5ca1ab1e"
FORBIDDEN = "status of 403"
DESK, PHONE = (1280, 900), (360, 740)
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def running() -> Iterator[Chromium]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(running: Chromium) -> Iterator[Chromium]:
    """A browser on whose pages nothing may go wrong but what the test expects."""
    yield running
    problems = running.problems
    running.close_pages()
    assert problems == []


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 prompts with every kind of end, as they lie in a bucket."""
    return write(tmp_path_factory.mktemp("gallery"), dozens())


@pytest.fixture
def open_page(browser: Chromium, batch: Path) -> Open:
    """Opens a page from its folder."""

    def call(path: Path = batch, size: tuple[int, int] = DESK, after: str = "", **options: Any) -> Page:
        page = browser.new_page(*size, **options)
        page.goto(path.as_uri() + after)
        return page

    return call


def _serve(folder: Path, *, signed: bool = False) -> Scripted:
    """A static bucket; if it is not open to all, it answers what is signed: the page alone."""

    def answer(seen: Seen) -> Reply:
        path, _, query = seen.path.partition("?")
        if signed and (path, query) != ("/index.html", SIGNATURE):
            return Reply(b"<Error><Code>AccessDenied</Code></Error>", 403)
        file = folder / path.lstrip("/")
        kind = {".html": "text/html; charset=utf-8", ".png": "image/png"}.get(file.suffix, "text/plain")
        if not file.is_file():
            return Reply(b"", 404)
        return Reply(file.read_bytes(), 200, {"Content-Type": kind})

    return Scripted(answer)


def _numbers(page: Page) -> list[int]:
    """The cards that are shown."""
    shown = page.evaluate("[...document.querySelectorAll('article:not([hidden])')].map(c => c.id)")
    return [int(name.removeprefix("p")) for name in shown]


def _until(page: Page, expression: str) -> None:
    """Wait until something is so; Playwright's own way of waiting is refused by the page's policy."""
    end = time.monotonic() + 15
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never: {expression}"
        page.wait_for_timeout(30)


def _broken(page: Page) -> int:
    """Pictures that a person sees as broken, or not at all."""
    _until(page, "[...document.images].every(i => i.complete || i.loading === 'lazy' || !i.src)")
    broken = "i => i.checkVisibility() && i.complete && !i.naturalWidth"
    return int(page.evaluate(f"[...document.images].filter({broken}).length"))


def _large(page: Page) -> int:
    """The width in pixels of what the dialog shows large."""
    return int(page.evaluate("document.getElementById('large').naturalWidth"))


def _too_wide(page: Page) -> bool:
    wide = "e => e.scrollWidth > e.clientWidth"
    places = [":root", "#details", ".body", "main"]
    return any(page.locator(place).evaluate(wide) for place in places)


def _check_signed_out(page: Page) -> None:
    note = page.locator("#note")
    note.get_by_text("needs a presigned link of its own").wait_for()
    assert "s3://pictures/f/b/images/1-0.png" in note.inner_text()
    assert page.locator("#signed").is_visible()
    assert _large(page) == THUMBNAIL_PIXELS


@pytest.mark.parametrize("how", ["folder", "bucket", "presigned"])
def test_wherever_it_lies(how: str, browser: Chromium, batch: Path) -> None:
    page = browser.new_page(*DESK)
    with _serve(batch.parent, signed=how == "presigned") as server:
        addresses = {
            "folder": batch.as_uri(),
            "bucket": f"{server.url}/index.html",
            "presigned": f"{server.url}/index.html?{SIGNATURE}",
        }
        page.goto(addresses[how])
        assert _broken(page) == 0
        assert page.evaluate("[...document.querySelectorAll('.pic img')].every(i => i.naturalWidth)")
        assert page.locator(".pic img").count() == 22
        assert len(browser.requests) - sum(r.startswith("data:") for r in browser.requests) == 1
        page.click("#p1 summary")
        if how == "presigned":
            _check_signed_out(page)
            browser.expect(FORBIDDEN)
        else:
            page.locator("#large[data-shows=full]").wait_for()
            assert _large(page) == PIXELS
            assert page.locator("#full").get_attribute("href").endswith("/images/1-0.png")  # type: ignore[union-attr]
            assert page.locator("#note").inner_text() == ""
            assert not page.locator("#signed").is_visible()
        assert _broken(page) == 0
    asked = [seen.path.partition("?")[0] for seen in server.seen]
    assert asked == ([] if how == "folder" else ["/index.html", "/images/1-0.png"])


def test_the_page_alone_still_shows_its_previews(
    browser: Chromium, batch: Path, open_page: Open, tmp_path: Path
) -> None:
    alone = tmp_path / "index.html"
    shutil.copy(batch, alone)
    page = open_page(alone)
    assert _broken(page) == 0
    page.click("#p1 summary")
    page.get_by_text("is not beside this page: get the folder images/ too").wait_for()
    assert _large(page) == THUMBNAIL_PIXELS
    assert _broken(page) == 0
    browser.expect("ERR_FILE_NOT_FOUND")


def test_pictures_whose_previews_did_not_fit(
    browser: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are loaded when they are scrolled to; behind a presigned link, words stand for them."""
    monkeypatch.setattr(_gallery, "PAGE_PREVIEW_BYTES", 0)
    write(tmp_path, [gallery_item(n) for n in range(1, 201)])
    page = browser.new_page(*DESK)
    with _serve(tmp_path) as server:
        page.goto(f"{server.url}/index.html")
        page.locator("#p1 img").evaluate("i => i.decode()")
        assert 4 <= len(server.seen) < 150
        page.locator("#p200").scroll_into_view_if_needed()
        _until(page, "document.querySelector('#p200 img').naturalWidth > 0")
    assert page.get_by_text("200 of 200 pictures have no preview in this page").is_visible()
    with _serve(tmp_path, signed=True) as server:
        page.goto(f"{server.url}/index.html?{SIGNATURE}")
        page.locator("#p1 .pic.lost").wait_for()
        page.wait_for_timeout(300)
        assert _broken(page) == 0
        assert page.locator("#p1 .pic").evaluate("e => getComputedStyle(e, '::after').content") == (
            '"no preview"'
        )
        page.click("#p1 summary")
        page.get_by_text("needs a presigned link of its own").wait_for()
        assert _broken(page) == 0
    browser.expect(FORBIDDEN)


def test_filter_by_status_and_text(open_page: Open) -> None:
    page = open_page()
    assert _numbers(page) == list(range(1, 25))
    page.get_by_role("button", name="warning 2").click()
    assert _numbers(page) == [4, 13]
    assert page.locator("#count").inner_text() == "2 of 24 shown"
    assert page.locator(".chips [aria-pressed=true]").inner_text() == "warning 2"
    assert page.url.endswith("#status=warning")
    page.get_by_role("button", name="all 24").click()
    for text, numbers in {
        "FOX": [3],
        "indented one and the last": [2],  # across its lines
        "postcard-two": [2],  # a name
        "why it is failed": [6],  # a message
        HEBREW[:4]: [5],
        "  number   7 ": [7],
        "<img": [],
    }.items():
        page.locator("#text").fill(text)
        assert _numbers(page) == numbers, text
    assert page.get_by_text("Nothing matches.").is_visible()
    page.get_by_role("button", name="Show all").click()
    assert len(_numbers(page)) == 24
    assert not page.get_by_text("Nothing matches.").is_visible()
    page.locator("#text").fill("number 1")
    page.get_by_role("button", name="failed 1").click()
    assert _numbers(page) == []


def test_what_is_shown_can_be_linked(open_page: Open) -> None:
    page = open_page(after="#status=warning&q=number+4")
    assert _numbers(page) == [4]
    assert page.locator("#text").input_value() == "number 4"
    page.evaluate("location.hash = '#q=fox'")
    _until(page, "document.querySelectorAll('article:not([hidden])').length === 1")
    assert _numbers(page) == [3]
    page.evaluate("location.hash = '#p=6'")
    page.locator("dialog[open]").wait_for()
    assert page.locator("#details .why").inner_text() == "why it is failed"
    page.keyboard.press("Escape")
    page.locator("dialog:not([open])").wait_for(state="attached")
    _until(page, "!location.hash.includes('p=')")
    for nonsense in ("#p=99", "#p=<b>", "#status=x&p=title", "#%%%"):
        page.evaluate("hash => { location.hash = hash }", nonsense)
        page.wait_for_timeout(50)
        assert not page.locator("dialog").is_visible()
        assert len(_numbers(page)) == 24


def test_by_keyboard_alone(open_page: Open) -> None:
    page = open_page()
    page.keyboard.press("/")
    page.keyboard.type("number")
    assert page.locator("#text").input_value() == "number", "the slash is not typed"
    page.keyboard.press("Enter")
    focused = "document.activeElement.closest('article')?.id"
    assert page.evaluate(focused) == "p1"
    assert not page.locator("dialog").is_visible()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "p4", "2, 3 and 5 are not shown"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    assert page.evaluate(focused) == "p24"
    page.keyboard.press("Home")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "what has the focus can be seen"
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    assert page.locator("#previous").is_disabled()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#title").inner_text() == "Prompt 1"
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    assert page.locator("#place").inner_text() == "13 of 20"
    assert page.locator("#title").inner_text() == "Prompt 17"
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    page.wait_for_timeout(300)
    assert page.evaluate(focused) == "p17"
    box = page.locator("#p17").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < DESK[1], "what was looked at last is in sight"
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#title").inner_text() == "Prompt 24"
    assert page.locator("#next").is_disabled()
    page.keyboard.press("ArrowRight")
    assert page.locator("#title").inner_text() == "Prompt 24"


def test_a_card_opens_with_all_that_is_known(open_page: Open) -> None:
    page = open_page()
    page.click("#p2 summary")
    assert page.locator("#details .prompt").inner_text() == LINES
    text = page.locator("#details").inner_text()
    for part in (
        *("stored", "1 credit", "Postcard-Two", "nano-banana-pro", "gen_1"),
        *("2-0.png", f"{PIXELS} × {PIXELS}", "image/png", "s3://pictures/f/b/images/2-0.png"),
    ):
        assert part in text
    assert re.search("[0-9a-f]{64}", text)
    assert page.locator("#details a").get_attribute("href") == "images/2-0.png"
    page.click("#next")
    assert page.locator("#strip button").count() == 4
    page.locator("#strip button").nth(2).click()
    page.locator("#large[data-shows=full]").wait_for()
    assert page.evaluate("document.getElementById('large').src").endswith("/images/3-2.png")
    page.click("#next")
    assert page.locator("#details .why").inner_text() == "why it is warning"
    assert not page.locator("#stage").is_visible(), "a warning has no picture"
    page.go_back()
    _until(page, "!document.querySelector('dialog').open")
    assert "p=" not in page.url
    page.click("#p5 summary")
    assert "3 credits, paid earlier" in page.locator("#details").inner_text()
    assert page.locator("#details .prompt").evaluate("e => e.matches(':dir(rtl)')")
    page.mouse.click(3, 3)
    _until(page, "!document.querySelector('dialog').open")
    page.click("#p11 summary")
    assert "up to 2 credits more" in page.locator("#details").inner_text()
    page.click("#close")
    _until(page, "!document.querySelector('dialog').open")


def test_a_film_is_offered_and_not_played(open_page: Open, tmp_path: Path) -> None:
    made = gallery_item(1, pictures=2)
    film = made.outcome.images[1].model_copy(update={"content_type": "video/mp4", "checked": False})
    outcome = made.outcome.model_copy(update={"images": (made.outcome.images[0], film)})
    page = open_page(write(tmp_path, [GalleryItem(outcome, made.thumbnails)]))
    page.click("#p1 summary")
    page.locator("#large[data-shows=full]").wait_for()
    page.locator("#strip button").nth(1).click()
    assert not page.locator("#large").is_visible()
    assert "(video/mp4) is not shown here" in page.locator("#note").inner_text()
    assert page.locator("#note a").get_attribute("href") == "images/1-1.png"
    page.locator("#strip button").nth(0).click()
    page.locator("#large[data-shows=full]").wait_for()
    assert page.locator("#large").is_visible()


def test_copying(open_page: Open, browser: Chromium) -> None:
    page = open_page()
    page.click("#p2 summary")
    page.get_by_role("button", name="Copy prompt").click()
    page.locator("#details .copy", has_text="Copied").wait_for()
    page.click("#close")
    page.locator("#text").focus()
    page.keyboard.press("Control+v")
    assert page.locator("#text").input_value().split() == LINES.split()


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_no_prompt_breaks_it(size: tuple[int, int], open_page: Open, tmp_path: Path) -> None:
    ends = ("stored", "warning", "failed")
    items = [
        gallery_item(n, prompt, ends[n % 3], message=prompt, settings={"name": prompt})
        for n, prompt in enumerate(PROMPTS, 1)
    ]
    page = open_page(write(tmp_path, items), size)
    assert page.locator("article").count() == len(PROMPTS)
    assert page.evaluate("document.body.lastElementChild.tagName") == "SCRIPT"
    elements = page.locator("*").count()
    assert not _too_wide(page)
    page.click("#p1 summary")
    for prompt in PROMPTS:
        assert page.locator("#details .prompt").evaluate("e => e.textContent") == prompt.strip()
        assert page.locator("#details .prompt *").count() == 0
        assert not _too_wide(page), prompt[:40]
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert page.locator("main *, header *").count() < elements
    heights = page.evaluate("[...document.querySelectorAll('.excerpt')].map(e => e.offsetHeight)")
    assert max(heights) < 80, "no card is blown up by its prompt"


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone(dark: bool, open_page: Open) -> None:
    page = open_page(size=PHONE, dark=dark, has_touch=True, is_mobile=True)
    assert page.evaluate("innerWidth") == PHONE[0]
    assert not _too_wide(page)
    first = page.locator("#p1").bounding_box()
    assert first is not None
    assert first["y"] < PHONE[1] * 0.75, "pictures are seen without scrolling"
    page.tap("#p3 summary")
    page.locator("#large[data-shows=full]").wait_for()
    assert not _too_wide(page)
    box = page.locator("dialog").bounding_box()
    assert box is not None
    assert [box["width"], box["height"]] == [*PHONE]
    for name in ("Previous", "Next", "Close"):
        target = page.get_by_role("button", name=name).bounding_box()
        assert target is not None
        assert min(target["width"], target["height"]) >= 40, "a finger hits it"
    page.get_by_role("button", name="Close").tap()
    _until(page, "!document.querySelector('dialog').open")


CONTRAST = """selector => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const rgb = (...colors) => {
    for (const color of colors) { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (color) => color.map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
  const element = document.querySelector(selector), grounds = [];
  for (let e = element; e; e = e.parentElement) grounds.unshift(getComputedStyle(e).backgroundColor);
  const [a, b] = [rgb(...grounds), rgb(...grounds, getComputedStyle(element).color)].map(light);
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
}"""
TEXTS = (
    *("h1", ".about>p", ".eyebrow", "#cost>summary", "#cost .besides", ".excerpt", ".foot"),
    *(".none>span", ".none>b", "footer", "kbd", "#count"),
    *("[aria-pressed=true]", "[aria-pressed=true]>span", "[aria-pressed=false]>span"),
)


def test_it_can_be_read_in_the_light_and_in_the_dark(open_page: Open) -> None:
    grounds = []
    for dark in (False, True):
        page = open_page(dark=dark)
        for selector in TEXTS:
            assert page.evaluate(CONTRAST, selector) >= 4.5, (dark, selector)
        grounds.append(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        page.click("#p1 summary")
        for selector in ("#title", "#place", "#details dt", "#details .hash", ".copy"):
            assert page.evaluate(CONTRAST, selector) >= 4.5, (dark, selector)
    assert grounds[0] != grounds[1]


def test_a_thousand(open_page: Open, tmp_path: Path) -> None:
    page = open_page(write(tmp_path, [gallery_item(n, f"number {n}.") for n in range(1, 1001)]))
    assert page.locator("#count").inner_text() == "1000 of 1000 shown"
    seconds = page.evaluate(
        """() => {
          const text = document.getElementById('text'), start = performance.now();
          for (const value of ['n', '77.', '']) {
            text.value = value;
            text.dispatchEvent(new Event('input'));
            document.body.offsetHeight;
          }
          return (performance.now() - start) / 1000;
        }"""
    )
    assert seconds < 2, "typing stays fluent"
    page.locator("#text").fill("77.")
    assert _numbers(page) == [77, *range(177, 1000, 100)]
    page.locator("#text").fill("")
    page.locator("#p1 summary").focus()
    page.keyboard.press("End")
    box = page.locator("#p1000").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < DESK[1]
    assert page.locator("#p1000 img").evaluate("i => i.naturalWidth") > 0
    assert not _too_wide(page)
    visibility = page.locator("#p500").evaluate("e => getComputedStyle(e).contentVisibility")
    assert visibility == "auto", "what is out of sight is not laid out: a second per letter, or 30 ms"


def test_one(open_page: Open, tmp_path: Path) -> None:
    page = open_page(write(tmp_path, [gallery_item(1)]))
    assert not page.locator("#filter").is_visible(), "there is nothing to choose from"
    page.click("#p1 summary")
    assert page.locator("#previous").is_disabled()
    assert page.locator("#next").is_disabled()
    page.locator("#large[data-shows=full]").wait_for()


def test_without_scripts(open_page: Open) -> None:
    page = open_page(java_script_enabled=False)
    assert page.locator("article").count() == 24
    assert not page.locator("#filter").is_visible()
    page.click("#p2 summary")
    prompt = page.locator("#p2 .prompt")
    assert prompt.is_visible()
    assert prompt.inner_text() == LINES
    assert page.locator("#p2 .files a").is_visible()
    page.keyboard.press("Tab")
    assert page.locator("#p2 .files a").evaluate("e => e === document.activeElement")


def test_what_gets_into_the_page_can_do_nothing(open_page: Open, browser: Chromium) -> None:
    """A second wall: the page's policy, if a text ever broke out of its place."""
    page = open_page()
    stopped: list[tuple[str, str | None]] = []
    page.on("requestfailed", lambda request: stopped.append((request.url, request.failure)))
    page.evaluate(
        """() => {
          const element = document.createElement('div');
          element.innerHTML = `<img src=x onerror="window.broke = 1"><b onclick="window.broke = 1">b</b>
            <img src="https://tracker.example/x.png"><iframe src="https://tracker.example/"></iframe>`;
          document.body.append(element);
          element.querySelector('b').click();
          const script = document.createElement('script');
          script.textContent = 'window.broke = 1';
          document.body.append(script);
        }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.broke") is None
    assert ("https://tracker.example/x.png", "csp") in stopped, "stopped before it was sent"
    browser.expect("Content Security Policy|ERR_FILE_NOT_FOUND|elsewhere: https://tracker.example/x.png")
