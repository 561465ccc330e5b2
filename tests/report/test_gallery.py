"""The gallery page as a text: whole, bounded, closed to the outside, and broken by no prompt."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest
from galleries import PROMPTS, dozens, gallery_item, image, page, picture
from read_page import Read

from prefect_nanobanana import Generation
from prefect_nanobanana.report import _gallery
from prefect_nanobanana.report._item import GalleryItem

ADDRESSES = {"src", "href", "srcset", "action", "formaction", "poster", "data", "background"}


def _previews(text: str) -> list[str]:
    return re.findall(r'<img src="(data:[^"]*)"', text)


def _shape(item: GalleryItem) -> list[Any]:
    return [(tag, sorted(held)) for tag, held in Read(page([item])).elements]


def _hostile(text: str, status: str) -> GalleryItem:
    """An outcome in which every text is this one."""
    generation = Generation(status="completed", generation_id=text, model=text)
    settings = {
        **{"name": text, "aspect_ratio": text},
        "reference_image_urls": ["http://i.example/" + text],
    }
    item = gallery_item(1, text, status, settings=settings, generation=generation, message=text)
    if status != "stored":
        return item
    images = (image("f/b/images/" + text), image("elsewhere/" + text))
    return GalleryItem(
        item.outcome.model_copy(update={"images": images}), (text, 'data:image/png,"' + text)
    )


@pytest.mark.parametrize("status", ["stored", "warning"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_no_text_breaks_out(prompt: str, status: str) -> None:
    """The same elements and attributes as with a harmless text, and the whole text among them."""
    text = page([_hostile(prompt, status)])
    read = Read(text)
    assert _shape(_hostile(prompt, status)) == _shape(_hostile("a cat", status))
    assert not [held for _, held in read.elements if any(name.startswith("on") for name in held)]
    assert read.texts["prompt"] == [prompt.strip()]
    assert read.texts["why"] == [prompt]


def test_it_asks_nobody_for_anything() -> None:
    text = page([*dozens(), *(_hostile(p, "stored") for p in PROMPTS)], prompts=24)
    read = Read(text)
    for tag, held in read.elements:
        for name in ADDRESSES & set(held):
            assert re.match(r"data:|images/|manifest\.jsonl$", held[name]), (tag, name, held[name])
        assert not {"style", "srcdoc", "http-equiv"} & set(held) or tag == "meta"
        assert held.get("http-equiv", "") in ("", "Content-Security-Policy")
    assert not {"iframe", "object", "embed", "base", "form", "svg"} & {tag for tag, _ in read.elements}
    style, script = read.texts["style"], read.texts["script"]
    assert len(style) == len(script) == 1
    assert not re.search(r"url\(|@import|//", style[0])
    forbidden = r"fetch|XMLHttp|WebSocket|sendBeacon|import\(|https?:|innerHTML|eval\("
    assert not re.search(forbidden, script[0])


def test_only_its_own_script_and_style_may_run() -> None:
    read = Read(page(dozens()))
    policy = next(held["content"] for held in read.all("meta") if "http-equiv" in held)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for rule, tag in (("style-src", "style"), ("script-src", "script")):
        digest = hashlib.sha256(read.texts[tag][0].encode()).digest()
        assert rules[rule] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "'self' data: file:"


@pytest.mark.parametrize(
    ("key", "href"),
    [
        ("f/b/images/a-cat-1.png", "images/a-cat-1.png"),
        ("f/b/images/50% a?b#c&d:e.png", "images/50%25%20a%3Fb%23c%26d%3Ae.png"),
        ("f/b/images/javascript:alert(1)", "images/javascript%3Aalert%281%29"),
        ("f/b///evil.example/x.png", None),
        ("f/other/images/x.png", None),
        ("x.png", None),
    ],
)
def test_links_lead_to_what_lies_beside_the_page(key: str, href: str | None) -> None:
    item = gallery_item(1, images=(image(key),))
    read = Read(page([item]))
    links = [held["href"] for held in read.all("a") if "href" in held]
    assert links == (["manifest.jsonl"] if href is None else ["manifest.jsonl", href])
    assert read.texts["uri"] == ["s3://pictures/f/b/manifest.jsonl", f"s3://pictures/{key}"]


@pytest.mark.parametrize("claimed", ["https://tracker.example/x.png", "//x", "data:text/html,x", ""])
def test_what_is_no_preview_is_not_shown_as_one(claimed: str) -> None:
    item = gallery_item(1)
    text = page([GalleryItem(item.outcome, (claimed,))])
    assert [held["src"] for held in Read(text).pictures()] == ["images/1-0.png"]
    assert "1 of 1 picture have no preview" in text


def test_without_preview_and_file_there_is_no_picture_to_break() -> None:
    item = gallery_item(1, images=(image("elsewhere/x.png"),))
    (held,) = Read(page([GalleryItem(item.outcome, ("",))])).pictures()
    assert "src" not in held


def test_totals() -> None:
    items = dozens()
    read = Read(page(items))
    counts = "19 stored, 2 warnings, 1 failed, 1 unknown, 1 skipped"
    assert read.texts["summary"][0] == counts + "; 23 credits used, 3 paid earlier, 9977 left"
    about = " ".join(read.texts["about"][0].split())
    assert "22 pictures in S3. Balance before: 10000, after: 9977; the account's balance agrees" in about
    rows = [row.split() for row in re.findall(r"\S.*", "\n".join(read.texts["tr"]))]
    assert [" ".join(row) for row in rows] == [
        *("statuspromptscredits", "stored1921", "warning22", "failed10", "unknown10", "skipped10"),
        *("this run2423", "of it without a picture2", "paid by earlier runs3"),
        "at worst besides, without an answer2",
    ]
    chips = [text for text in read.texts["button"] if text[-1:].isdigit()]
    assert chips == ["all 24", "stored 19", "warning 2", "failed 1", "unknown 1", "skipped 1"]
    assert read.texts["cost"][4] == "3 credits, paid earlier"
    assert "up to 2 credits more" in read.texts["facts"][10]
    assert "nano-banana-pro, sync mode" in read.texts["facts"][1]
    assert "why it is warning" in read.texts["none"][0]


def test_what_could_not_be_known_or_written() -> None:
    text = page([gallery_item(1)], balance_before=None, manifest_uri=None)
    assert "Balance before: not known, after: 9999; the account&#39;s balance could not be read" in text
    assert "manifest.jsonl" not in text


def test_earlier_lists_are_told_apart() -> None:
    text = page(dozens(), prompts=20)
    assert "With 4 more from earlier lists of this batch" in text
    assert text.count("<article") == 24


@pytest.mark.parametrize("prompts", [1, 24, 1000])
def test_nothing_is_left_out_of_what_people_ask_for(prompts: int) -> None:
    items = [gallery_item(n) for n in range(1, prompts + 1)]
    text = page(items)
    assert text.count("<article") == len(_previews(text)) == prompts
    assert '<p class="notice">' not in text
    assert len(text) < 40_000 + prompts * 9_000


def test_a_page_of_too_many_prompts_says_what_it_left_out() -> None:
    items = [gallery_item(n, status="stored" if n % 2 else "warning") for n in range(1, 2502)]
    text = page(items)
    assert text.count("<article") == _gallery.PAGE_CARDS == 2000
    assert "the first 2000 of 2501 prompts. The other 501 (251 stored, 250 warnings) would make" in text
    assert "all <span>2000</span>" in text
    assert '<th scope="row">this run</th><td>2501</td>' in text, "the totals are those of all"


def test_a_page_of_too_long_prompts_says_what_it_left_out() -> None:
    items = [gallery_item(n, "&" * 8000) for n in range(1, 401)]
    text = page(items)
    shown = text.count("<article")
    assert 200 < shown < 400
    previews = sum(map(len, _previews(text)))
    assert len(text.encode()) - previews < _gallery.PAGE_TEXT_BYTES + 50_000
    assert f"the first {shown} of 400 prompts" in text


def test_first_pictures_have_their_previews_first() -> None:
    preview = "data:image/webp;base64," + "A" * 11_977
    items = [GalleryItem(gallery_item(n, pictures=4).outcome, (preview,) * 4) for n in range(1, 1001)]
    text = page(items)
    kept = _previews(text)
    assert sum(map(len, kept)) <= _gallery.PAGE_PREVIEW_BYTES < sum(map(len, kept)) + 12_000
    assert f"{4000 - len(kept)} of 4000 pictures have no preview in this page" in text
    cards = text.split("<article")[1:]
    assert all(preview in card for card in cards), "no card lacks its first preview"
    beside = re.findall(r'<img src="images/[^"]*"[^>]* loading=lazy ', text)
    assert len(beside) == 4000 - len(kept)


def test_the_sample_is_what_it_says() -> None:
    content, preview = picture(1)
    assert content.startswith(b"\x89PNG")
    assert preview.startswith("data:image/webp;base64,")
