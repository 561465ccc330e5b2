"""Report, manifest and pages: counts that add up, and prompts that break nothing."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from galleries import manifest
from PIL import Image
from prefect_aws import S3Bucket
from rich.console import Console

from prefect_nanobanana import BooksDoNotBalance, Generation, ImagePrompt, Outcome, Progress, StoredImage
from prefect_nanobanana.console import live_progress, print_report
from prefect_nanobanana.models import RunReport
from prefect_nanobanana.progress import Tracker
from prefect_nanobanana.report._artifacts import (
    ARTIFACT_BYTES,
    STRIP_PICTURES,
    credits_markdown,
    gallery_markdown,
    strip,
    table_rows,
)
from prefect_nanobanana.report._gallery import gallery_page
from prefect_nanobanana.report._item import GalleryItem
from prefect_nanobanana.report._live import progress_line
from prefect_nanobanana.report._report import build_report
from prefect_nanobanana.report._summary import balance_note, summary
from prefect_nanobanana.s3._store import ObjectStore

HOSTILE = "<img src=x onerror=alert(1)>|**b**\n\n</td></table># [x](javascript:1) `c` $x$ \\ ~~s~~"


def _image(n: int = 1, key: str = "f/b/images/x-1.png") -> StoredImage:
    return StoredImage(
        uri=f"s3://p/{key}",
        key=key,
        content_type="image/png",
        size_bytes=n,
        sha256="0" * 64,
        width=1,
        height=1,
        source_url="https://i/1",
    )


def _outcome(position: int, status: Any = "stored", prompt: str = "a cat", **changes: Any) -> Outcome:
    settings: dict[str, Any] = {
        "credits_used": 1 if status in ("stored", "warning", "failed") else 0,
        "images": (_image(),) if status == "stored" else (),
        **changes,
    }
    return Outcome(position=position, prompt=ImagePrompt(prompt=prompt), status=status, **settings)


def _report(*outcomes: Outcome, **changes: Any) -> RunReport:
    settings: dict[str, Any] = {
        "balance_before": 10,
        "balance_after": 10 - sum(o.credits_used for o in outcomes if not o.reused),
        "manifest_uri": "s3://p/f/b/manifest.jsonl",
        "gallery_uri": "s3://p/f/b/index.html",
        **changes,
    }
    return build_report("b", len(outcomes), [GalleryItem(o) for o in outcomes], **settings)


def _told(report: RunReport, thumbnail: str = "data:image/webp;base64,AAAA") -> list[GalleryItem]:
    return [GalleryItem(o, (thumbnail,) * len(o.images)) for o in report.outcomes]


def test_everything_is_counted() -> None:
    report = _report(
        _outcome(1),
        _outcome(2, "warning", message="no"),
        _outcome(3, "failed", message="broke"),
        _outcome(4, "unknown", message="?"),
        _outcome(5, "skipped", message="max_credits is reached"),
        _outcome(6, reused=True, credits_used=4),
    )
    counts = (report.stored, report.warnings, report.failed, report.unknown, report.skipped)
    assert counts == (2, 1, 1, 1, 1)
    assert (report.credits_used, report.credits_reused, report.credits_without_image) == (3, 4, 2)
    assert summary(report) == (
        "2 stored, 1 warning, 1 failed, 1 unknown, 1 skipped; 3 credits used, 4 paid earlier, 7 left"
    )


@pytest.mark.parametrize("positions", [[1], [1, 3], [2, 1], [1, 1], [1, 2, 3]])
def test_counts_that_do_not_add_up_raise(positions: list[int]) -> None:
    outcomes = [_outcome(p) for p in positions]
    with pytest.raises(BooksDoNotBalance, match="2 prompts"):
        build_report(
            "b",
            2,
            [GalleryItem(o) for o in outcomes],
            balance_before=None,
            balance_after=None,
            manifest_uri=None,
            gallery_uri=None,
        )


@pytest.mark.parametrize(
    ("before", "after", "at_risk", "says"),
    [
        (10, 9, 0, "the account's balance agrees"),
        (10, 9, 2, "agrees, so requests without an answer seem to have cost nothing"),
        (10, 4, 0, "this run has answers for; 5 credits were spent by someone else"),
        (
            10,
            8,
            2,
            "lost 1 credit more than this run has answers for; requests without an answer cost up",
        ),
        (10, 4, 2, "cost up to 2 credits; at least 3 credits were spent by someone else"),
        (10, 10, 0, "lost 1 credit less than this run accounts for: refunds or a purchase"),
        (
            None,
            9,
            1,
            "could not be read, so the books were not compared; requests without an answer",
        ),
    ],
)
def test_a_difference_is_shown_never_hidden(
    before: int | None, after: int, at_risk: int, says: str
) -> None:
    report = _report(
        _outcome(1),
        _outcome(2, "unknown", credits_at_risk=at_risk, message="?"),
        balance_before=before,
        balance_after=after,
    )
    assert says in balance_note(report)
    assert (says in summary(report)) is (report.credits_unexplained not in (0, None))
    assert ("someone else" in says) is bool(report.credits_of_others)


def test_the_balance_falls_back_to_what_answers_said() -> None:
    generation = Generation(status="completed", remaining_credits=42)
    report = _report(_outcome(1, generation=generation), balance_after=None)
    assert report.remaining_credits == 42
    assert "left" not in summary(_report(_outcome(1), balance_after=None))


def test_the_manifest_names_every_image() -> None:
    report = _report(_outcome(1, prompt="ä\nb"), _outcome(2, "warning", message="no"))
    rows = [json.loads(row) for row in manifest(_told(report)).decode().splitlines()]
    assert [row["status"] for row in rows] == ["stored", "warning"]
    assert rows[0]["prompt"]["prompt"] == "ä\nb"
    assert rows[0]["images"][0]["key"] == "f/b/images/x-1.png"


@pytest.mark.parametrize("prompt", [HOSTILE, "x" * 4000, "שלום עולם", "a\n\n\nb"])
def test_prompts_that_break_no_page(prompt: str, bucket: S3Bucket) -> None:
    report = _report(_outcome(1, prompt=prompt), _outcome(2, "failed", prompt=prompt, message=HOSTILE))
    text = gallery_markdown(report, _told(report))
    table = text[text.index("<table>") : text.index("</table>\n")]
    assert "\n" not in table, "a blank line would end the table"
    assert "<img src=x" not in text
    assert "**b**" not in table
    assert table.count("<td ") == 2
    page = gallery_page(report, _told(report), ObjectStore(bucket)).decode()
    assert "<img src=x" not in page
    assert page.count("<article") == 2


@pytest.mark.parametrize("prompts", [1, 24, 1000])
def test_the_artifact_stays_small_and_says_what_it_left_out(prompts: int) -> None:
    report = _report(*(_outcome(n) for n in range(1, prompts + 1)))
    text = gallery_markdown(report, _told(report, "data:image/webp;base64," + "A" * 8000))
    assert len(text.encode()) < ARTIFACT_BYTES + 20_000
    shown = text.count("<td ")
    assert shown == prompts or f"{prompts - shown} more are in the gallery page" in text


@pytest.mark.parametrize("prompts", [1, 24, 25, 1000])
def test_the_strip_on_the_run_page_is_bounded(prompts: int) -> None:
    report = _report(*(_outcome(n) for n in range(1, prompts + 1)))
    text = strip(report, _told(report))
    assert text.count("<img ") == min(prompts, STRIP_PICTURES)
    assert (f"The first {STRIP_PICTURES} of {prompts} pictures" in text) == (prompts > STRIP_PICTURES)
    assert text.startswith(f"{prompts} stored; ")


def test_the_strip_s_pictures_are_smaller_than_thumbnails() -> None:
    out = io.BytesIO()
    Image.effect_noise((256, 256), 90).convert("RGB").save(out, "WEBP", quality=60)
    thumbnail = f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
    report = _report(_outcome(1))
    text = strip(report, _told(report, thumbnail))
    assert len(text) < len(thumbnail) / 3


def test_a_run_without_pictures_has_no_strip() -> None:
    report = _report(_outcome(1, "warning"))
    assert strip(report, _told(report)) == "0 stored, 1 warning; 1 credit used, 9 left."


def test_a_picture_without_a_thumbnail_breaks_nothing() -> None:
    report = _report(_outcome(1))
    assert 'src=""' not in gallery_markdown(report, _told(report, ""))
    assert "<img" not in strip(report, _told(report, ""))


def test_thumbnails_lead_to_full_images() -> None:
    report = _report(_outcome(1))
    text = gallery_markdown(report, _told(report), lambda key: f'https://store/{key}?a="&b')
    assert '<a href="https://store/f/b/images/x-1.png?a=&#34;&#38;b"><img width="140"' in text


def test_the_table_of_results_is_bounded_and_says_what_it_left_out() -> None:
    report = _report(*(_outcome(n, prompt="p" * 4000) for n in range(1, 6001)))
    rows, left_out = table_rows(report)
    assert rows[0]["#"] == 1
    assert len(rows[0]["prompt"]) == 200
    assert len(rows) + left_out == 6000
    assert left_out > 0
    assert len(json.dumps(rows)) < ARTIFACT_BYTES + 20_000


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"counts": {}}, "0 of 28 prompts; 14 credits spent, 30 expected in all; about 75 s left"),
        (
            {"counts": {"stored": 10, "warning": 2}},
            "12 of 28 prompts: 10 stored, 2 warnings; 14 credits spent, 30 expected in all; "
            "about 75 s left",
        ),
        ({"counts": {"stored": 28}}, "28 of 28 prompts: 28 stored; 14 credits spent"),
        (
            {"counts": {}, "credits_projected": None, "seconds_left": None},
            "0 of 28 prompts; 14 credits spent",
        ),
        (
            {"counts": {}, "seconds_left": 600},
            "0 of 28 prompts; 14 credits spent, 30 expected in all; about 10 min left",
        ),
        (
            {"counts": {}, "seconds_left": 7200},
            "0 of 28 prompts; 14 credits spent, 30 expected in all; about 2.0 h left",
        ),
    ],
)
def test_progress_in_words(changes: dict[str, Any], expected: str) -> None:
    settings: dict[str, Any] = {
        "prompts": 28,
        "images": 10,
        "credits_used": 14,
        "seconds_left": 75.0,
        "credits_projected": 30,
        **changes,
    }
    assert progress_line(Progress(**settings)) == expected


def test_what_earlier_runs_paid_is_told_apart() -> None:
    report = _report(_outcome(1), _outcome(2, reused=True, credits_used=3))
    text = credits_markdown(report)
    assert "| stored | 2 (1 from earlier runs) | 1 |" in text
    assert "| paid by earlier runs | | 3 |" in text
    assert report.credits_by_status["reused"] == 3
    assert "3 credits earlier" in gallery_markdown(report, _told(report))


def test_links_are_relative_to_the_page(bucket: S3Bucket) -> None:
    opened = ObjectStore(bucket)
    image = _image(key=opened.key("b/images/x-1.png"))
    report = _report(_outcome(1, images=(image,)))
    assert 'href="images/x-1.png"' in gallery_page(report, _told(report), opened).decode()


def _console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=terminal, color_system=None)


def _written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_live_progress(terminal: bool) -> None:
    console = _console(terminal)
    with live_progress(console):
        tracker = Tracker(3)
        tracker.ended("a [red]cat[/red]", "stored", images=2, credits=2, asked=True)
        tracker.ended("b", "warning", images=0, credits=1, asked=True)
        tracker.ended("c", "skipped", images=0, credits=0, asked=False)
    text = _written(console)
    assert "[red]cat[/red]" in text, "a prompt is no markup"
    assert "1 warnings, 0 failed" in text
    assert "3 credits" in text
    assert "1 skipped" in text


def test_time_left() -> None:
    seen: list[Progress] = []
    from prefect_nanobanana import watch_progress

    with watch_progress(seen.append):
        tracker = Tracker(3)
        tracker.ended("a", "stored", images=1, credits=0, asked=False)
        assert seen[-1].seconds_left is None, "what was reused says nothing of the pace"
        tracker.ended("b", "stored", images=1, credits=1, asked=True)
        assert seen[-1].seconds_left is not None


def test_the_table_of_results() -> None:
    console = _console(False)
    report = _report(_outcome(1, prompt="a [b]cat[/b]"), _outcome(2, "failed", message="it broke"))
    print_report(report, console)
    text = _written(console)
    assert "a [b]cat[/b]" in text
    assert "2: it broke" in text
    assert "gallery:  s3://p/f/b/index.html" in text
