"""Pages, artifacts and manifest over outcomes that hold secrets, or that a stranger has written."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from galleries import gallery_item, image, manifest, page
from prefect_aws import S3Bucket
from read_page import Read

from prefect_nanobanana import Generation, ImagePrompt, Outcome, RunReport, StorageOptions
from prefect_nanobanana._common.untrusted import PREVIEW_CHARACTERS, is_below, is_preview
from prefect_nanobanana.report import GalleryItem, Publisher
from prefect_nanobanana.report._artifacts import gallery_markdown, strip, table_rows
from prefect_nanobanana.report._report import build_report
from prefect_nanobanana.s3 import ObjectStore

SECRET = "5ca1ab1e"
PREVIEW = "data:image/webp;base64,AAAA"


def _report(*items: GalleryItem) -> RunReport:
    return build_report(
        "b",
        len(items),
        items,
        balance_before=None,
        balance_after=None,
        manifest_uri="s3://p/f/b/manifest.jsonl",
        gallery_uri="s3://p/f/b/index.html",
    )


def _all_pages(*items: GalleryItem) -> dict[str, str]:
    report = _report(*items)
    return {
        "page": page(items),
        "manifest": manifest(items).decode(),
        "gallery": gallery_markdown(report, items),
        "strip": strip(report, items),
        "table": str(table_rows(report)),
        "report": repr(report),
    }


@pytest.mark.parametrize(
    "place", ["reference", "image", "source", "message", "API's message", "model", "id"]
)
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"https://me:{SECRET}@refs.example/cat.png", "https://refs.example/cat.png"),
        (
            f"https://b.s3.amazonaws.com/cat.png?X-Amz-Expires=9&X-Amz-Signature={SECRET}",
            "https://b.s3.amazonaws.com/cat.png",
        ),
        (f"https://g.example/cat.png?X-Goog-Signature={SECRET}&v=2", "https://g.example/cat.png?v=2"),
        (f"https://az.example/cat.png?sig={SECRET}&w=9", "https://az.example/cat.png?w=9"),
    ],
)
def test_no_page_holds_a_password_or_signature(url: str, shown: str, place: str) -> None:
    changes: dict[str, Any] = {"settings": {}}
    generation: dict[str, Any] = {"status": "completed", "image_urls": (), "message": None}
    if place == "reference":
        changes["settings"] = {"reference_image_urls": [url]}
    elif place == "image":
        generation["image_urls"] = (url,)
    elif place == "source":
        changes["images"] = (image("f/b/images/1.png").model_copy(update={"source_url": url}),)
    elif place == "message":
        changes["message"] = f"the API says: cannot fetch '{url}', sorry"
    elif place == "API's message":
        generation["message"] = f"{url} is not a picture"
    else:
        generation[{"model": "model", "id": "generation_id"}[place]] = url
    item = gallery_item(1, generation=Generation(**generation), **changes)
    pages = _all_pages(item)
    assert [name for name, text in pages.items() if SECRET in text] == []
    assert shown in pages["manifest"], "what is no secret is still told"


def test_a_run_with_a_presigned_reference_publishes_no_signature(
    prefect_server: None, run: Callable[..., RunReport], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = f"https://refs.example/cat.png?X-Amz-Expires=9&X-Amz-Signature={SECRET}"
    prompt = ImagePrompt(prompt="a dog", reference_image_urls=[reference])
    refused = ImagePrompt(prompt="a naked lunch", reference_image_urls=[reference])
    with caplog.at_level(logging.INFO):
        report = run(prompt, refused, fail_on="never")
    assert (report.stored, report.warnings) == (1, 1)
    for name in ("index.html", "manifest.jsonl"):
        text = (folder / "b" / name).read_text("utf-8")
        assert "https://refs.example/cat.png" in text
        assert SECRET not in text
    assert SECRET not in repr(report)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "thumbnail",
    [
        '"><script>alert(1)</script>',
        "https://tracker.example/x.png",
        "//tracker.example/x.png",
        "javascript:alert(1)",
        "data:text/html;base64,AAAA",
        "data:image/svg+xml;base64,AAAA",
        "data:image/svg+xml,<svg onload=alert(1)>",
        'data:image/png;base64,AAAA" onerror="alert(1)',
        "data:image/png;base64,AAAA\n",
        "data:image/png,AAAA",
        "data:image/webp;base64," + "A" * PREVIEW_CHARACTERS,
        "",
    ],
)
def test_only_small_pictures_are_thumbnails(thumbnail: str) -> None:
    assert not is_preview(thumbnail)
    made = gallery_item(1)
    item = GalleryItem(made.outcome, (thumbnail,))
    read = Read(page([item]))
    assert [held["src"] for held in read.pictures()] == ["images/1-0.png"]
    assert len(read.all("script")) == 1
    report = _report(item)
    for text in (gallery_markdown(report, [item]), strip(report, [item])):
        elements = Read(text).elements
        assert not [held for tag, held in elements if tag in ("img", "script")]
        assert len(text) < 1000


@pytest.mark.parametrize("kind", ["webp", "png", "jpeg", "gif", "avif"])
def test_small_pictures_are_shown(kind: str) -> None:
    thumbnail = f"data:image/{kind};base64,AAAA"
    item = GalleryItem(gallery_item(1).outcome, (thumbnail,))
    assert [held["src"] for held in Read(page([item])).pictures()] == [thumbnail]
    assert thumbnail in gallery_markdown(_report(item), [item])


@pytest.mark.parametrize("thumbnails", [(), (PREVIEW,), (PREVIEW,) * 5])
def test_a_record_with_another_number_of_thumbnails_breaks_no_page(thumbnails: tuple[str, ...]) -> None:
    outcome = gallery_item(1, pictures=3).outcome
    item = GalleryItem(outcome, thumbnails)
    shown = min(3, len(thumbnails))
    assert gallery_markdown(_report(item), [item]).count("<img") == shown
    assert page([item]).count(f'src="{PREVIEW}"') == shown


@pytest.mark.parametrize(
    ("key", "own"),
    [
        ("{}/b/images/cat-1.png", True),
        ("{}/b/images/cat-..-1.png", True),
        ("{}/b/images/../../other/secret.png", False),
        ("{}/b/images/./../../x", False),
        ("{}/b/images//x.png", False),
        ("{}/b/../secret.png", False),
        ("{}/other/images/cat-1.png", False),
        ("{}/bb/images/cat-1.png", False),
        ("{}/b", False),
        ("payroll.csv", False),
        ("", False),
    ],
)
def test_links_lead_to_objects_of_the_batch_alone(bucket: S3Bucket, key: str, own: bool) -> None:
    key = key.format(bucket.bucket_folder)
    store = ObjectStore(bucket, StorageOptions(links="signed"))
    publisher = Publisher(store, "b", logging.getLogger())
    item = gallery_item(1, images=(image(key),))
    text = gallery_markdown(_report(item), [item], publisher._link)
    hrefs = [held["href"] for held in Read(text).all("a")]
    assert len(hrefs) == own
    assert all("X-Amz-Signature" in href for href in hrefs)
    assert is_below(key, store.key("b")) is own


def test_no_log_has_the_signature_of_a_link(bucket: S3Bucket, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        link = ObjectStore(bucket, StorageOptions(links="signed")).link("f/b/images/1.png")
        signature = str(link).partition("X-Amz-Signature=")[2].partition("&")[0]
    assert len(signature) == 64
    assert "botocore" in caplog.text
    assert signature not in caplog.text


def test_no_relative_link_leads_out_of_the_batch() -> None:
    item = gallery_item(1, images=(image("f/b/images/../../../payroll.html"),))
    read = Read(page([item]))
    assert [held["href"] for held in read.all("a") if "href" in held] == ["manifest.jsonl"]


MARKUP = (
    "</td></table><script>alert(1)</script>![x](https://t.example/x.png) [y](javascript:2)"
    "\n\n# h\x1b[31m"
)


@pytest.mark.parametrize("place", ["message", "generation", "content type", "uri"])
def test_what_a_record_says_is_text(place: str) -> None:
    changes: dict[str, Any] = {}
    stored = image("f/b/images/1.png")
    if place == "message":
        changes["message"] = MARKUP
    elif place == "generation":
        changes["generation"] = Generation(
            status="completed", generation_id=MARKUP, model=MARKUP, message=MARKUP
        )
    elif place == "content type":
        stored = stored.model_copy(update={"content_type": MARKUP, "checked": False})
    else:
        stored = stored.model_copy(update={"uri": MARKUP, "sha256": MARKUP})
    item = GalleryItem(gallery_item(1, images=(stored,), **changes).outcome, (PREVIEW,))
    harmless = GalleryItem(gallery_item(1, images=(image("f/b/images/1.png"),)).outcome, (PREVIEW,))
    assert len(Read(page([item])).all("script")) == 1
    text = gallery_markdown(_report(item), [item])
    tags = {tag for tag, _ in Read(text).elements}
    assert tags <= {tag for tag, _ in Read(gallery_markdown(_report(harmless), [harmless])).elements} | {
        "i"
    }
    assert "](" not in text
    assert "\x1b" not in text


def test_a_film_is_a_link_and_no_picture() -> None:
    film = image("f/b/images/cat-2.mp4", b"film").model_copy(
        update={"content_type": "video/mp4", "checked": False, "width": 0, "height": 0}
    )
    made = gallery_item(1, images=(image("f/b/images/cat-1.png"), film))
    item = GalleryItem(made.outcome, (PREVIEW, PREVIEW))
    read = Read(page([item]))
    assert [held["src"] for held in read.pictures()] == [PREVIEW]
    links = [held["href"] for held in read.all("a") if "href" in held]
    assert links == ["manifest.jsonl", "images/cat-1.png", "images/cat-2.mp4"]
    assert read.texts["file"] == ["video/mp4"]
    assert "not checked · video/mp4 · 4 bytes" in read.texts["files"][0]
    assert "no preview" not in page([item]).partition("</style>")[2]
    assert len(Read(strip(_report(item), [item])).all("img")) == 1
    cells = Read(gallery_markdown(_report(item), [item]))
    assert len(cells.all("img")) == 1
    assert "video/mp4, not checked" in cells.texts["td"][1]
    (row,) = map(json.loads, manifest([item]).decode().splitlines())
    assert [stored["checked"] for stored in row["images"]] == [True, False]


def test_a_manifest_has_the_fields_that_it_always_had() -> None:
    (row,) = map(json.loads, manifest([gallery_item(1)]).decode().splitlines())
    assert set(row) > {
        *("position", "prompt", "status", "images", "credits_used", "credits_at_risk", "reused")
    }
    assert set(row["images"][0]) > {
        *("uri", "key", "content_type", "size_bytes", "sha256", "width", "height", "source_url")
    }


def test_half_a_character_in_a_message_prevents_no_page() -> None:
    outcome: Outcome = gallery_item(1, status="failed").outcome.model_copy(
        update={"message": "it broke: \ud800"}
    )
    item = GalleryItem(outcome)
    assert "it broke: \ufffd" in page([item])
    assert "it broke: \ufffd" in manifest([item]).decode()
