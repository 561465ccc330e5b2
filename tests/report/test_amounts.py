"""What a run has cost, in words: exact shares, estimates, and whose credits they were."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from galleries import gallery_item, image, page
from read_page import Read

from prefect_nanobanana import Generation, RunReport
from prefect_nanobanana.report import GalleryItem, summary
from prefect_nanobanana.report._artifacts import credits_markdown, gallery_markdown, table_rows
from prefect_nanobanana.report._report import build_report
from prefect_nanobanana.report._summary import balance_note


def _report(*items: GalleryItem, **changes: Any) -> RunReport:
    settings = {
        "balance_before": None,
        "balance_after": None,
        "manifest_uri": "s3://p/b/manifest.jsonl",
        "gallery_uri": "s3://p/b/index.html",
        **changes,
    }
    return build_report("b", len(items), items, **settings)


def _item(
    position: int,
    credits: float,
    quantity: int | None,
    came: int,
    stored: int | None = None,
    **changes: Any,
) -> GalleryItem:
    """A paid prompt: so many images asked for, so many that came, so many in S3."""
    urls = tuple(f"https://i.example/{n}" for n in range(came))
    stored = came if stored is None else stored
    made = gallery_item(
        position,
        images=tuple(image(f"f/b/images/{position}-{n}.png") for n in range(stored)),
        credits_used=credits,
        generation=Generation(status="completed", image_urls=urls, credits_used=credits),
        **changes,
    )
    return GalleryItem(made.outcome, quantity=quantity)


@pytest.mark.parametrize(
    ("prompts", "without_image"),
    [
        ([(6, 3, 1)], 4),
        ([(1, 3, 1)], 2 / 3),
        ([(0.3, 3, 1)], 0.2),
        ([(0.3, 3, 2)], 0.1),
        ([(8, 3, 1)] * 3, 16),
        ([(0.1, 1, 0)] * 3, 0.3),
        ([(4, 4, 3), (4, 4, 1), (2, 2, 2)], 4),
        ([(3, 3, 3)], 0),
        ([(3, 3, 5)], 0),
        ([(3, None, 1)], 0),
        ([(3, 3, 0)], 3),
        ([(3, None, 0)], 3),
        ([(3, 3, 3, 2)], 1),
        ([(3, 3, 2, 1)], 2),
    ],
)
def test_the_share_of_images_that_did_not_come(prompts: list[Any], without_image: float) -> None:
    items = [_item(n, *prompt) for n, prompt in enumerate(prompts, 1)]
    report = _report(*items)
    assert float(report.credits_without_image) == pytest.approx(without_image)
    assert isinstance(report.credits_without_image, int) or without_image % 1
    earlier = [_item(n, *prompt, reused=True) for n, prompt in enumerate(prompts, 1)]
    assert _report(*earlier).credits_without_image == 0, "paid by another run"


def test_amounts_of_tenths_agree_with_the_balance() -> None:
    items = [_item(n, 0.1, 1, 1) for n in range(1, 4)]
    report = _report(*items, balance_before=1, balance_after=Decimal("0.7"))
    assert report.credits_used == Decimal("0.3")
    assert report.credits_unexplained == 0
    assert report.credits_by_status["stored"] == Decimal("0.3")
    assert summary(report) == "3 stored; 0.3 credits used, 0.7 left"


@pytest.mark.parametrize(
    ("quantity", "came", "note"),
    [
        (3, 1, "1 picture came, 3 asked for"),
        (4, 3, "3 pictures came, 4 asked for"),
        (1, 4, "4 pictures came, 1 asked for"),
        (2, 2, None),
        (None, 2, None),
    ],
)
def test_another_number_than_asked_for_is_said(
    quantity: int | None, came: int, note: str | None
) -> None:
    item = _item(1, 3, quantity, came)
    read = Read(page([item]))
    said = [text for text in read.texts["dd"] if "asked for" in text]
    assert said == ([note] if note else [])
    assert (note or "asked for") in gallery_markdown(_report(item), [item]) or not note
    assert "asked for" not in gallery_markdown(_report(item), [item]) or note


def test_two_thirds_are_shown_as_people_write_them() -> None:
    item = _item(1, 2, 3, 1)
    assert "| of these without an image | | 1.33 |" in credits_markdown(_report(item))
    rows = " ".join("".join(Read(page([item])).texts["tfoot"]).split())
    assert "of it without a picture1.33" in rows


@pytest.mark.parametrize(
    ("credits", "before", "after", "at_risk", "says"),
    [
        (2, 10, 8, 0, "the account's balance agrees, so what was estimated seems to be right"),
        (2, 10, 1, 0, "lost 7 credits more than this run has answers for; what 1 prompt cost is an est"),
        (0, 10, 1, 0, "lost 9 credits more than this run has answers for; what 1 prompt cost is an est"),
        (2, 10, 1, 3, "cost up to 3 credits; what 1 prompt cost is an estimate, as the API did not say"),
        (
            2,
            10,
            9,
            0,
            "lost 1 credit less than this run accounts for; what 1 prompt cost is an estimate",
        ),
        (2, None, 9, 0, "the books were not compared; what 1 prompt cost is an estimate"),
    ],
)
def test_while_an_estimate_stands_nothing_is_somebody_elses(
    credits: int, before: int | None, after: int, at_risk: int, says: str
) -> None:
    item = gallery_item(1, credits_used=credits, credits_at_risk=at_risk, credits_estimated=True)
    report = _report(item, balance_before=before, balance_after=after)
    note = balance_note(report)
    assert says in note
    assert f"{credits} credits used (an estimate for 1 prompt)" in summary(report)
    for text in (note, summary(report), credits_markdown(report), page([item])):
        assert "someone else" not in text
        assert "refunds or a purchase" not in text
    assert report.credits_of_others is None


def test_an_estimate_of_an_earlier_run_does_not_matter() -> None:
    earlier = gallery_item(2, credits_used=2, credits_estimated=True, reused=True)
    report = _report(gallery_item(1), earlier, balance_before=10, balance_after=4)
    assert report.credits_of_others == 5
    assert "5 credits were spent by someone else" in balance_note(report)
    assert "estimate" not in summary(report)


def test_an_estimate_is_told_beside_its_prompt() -> None:
    item = gallery_item(1, credits_used=2, credits_estimated=True)
    read = Read(page([item]))
    assert read.texts["cost"] == ["2 credits (estimate)"]
    assert "2 credits, an estimate, as the API did not say" in read.texts["dd"]
    assert "2 credits (estimate)" in gallery_markdown(_report(item), [item])
    assert table_rows(_report(item))[0][0]["credits"] == "2 (estimate)"
    assert table_rows(_report(gallery_item(1)))[0][0]["credits"] == 1
