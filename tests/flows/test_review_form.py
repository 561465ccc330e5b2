"""Answers count for the images that were asked about, whatever has come or gone meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from galleries import gallery_item

from prefect_nanobanana.flows._review_form import Asked, decisions_of, form_of, pictures_of
from prefect_nanobanana.models import Origin, Provenance
from prefect_nanobanana.models.prompts import ImageRequest
from prefect_nanobanana.picks import Decision
from prefect_nanobanana.report import GalleryItem

KEYS = [f"{n:024x}" for n in range(9)]


def _items(*numbers: int) -> list[GalleryItem]:
    made = []
    for number in numbers:
        item = gallery_item(number + 1, prompt=f"prompt {number}")
        origin = Provenance(key=KEYS[number], request=ImageRequest(prompt="x"), images=(Origin(1),))
        made.append(GalleryItem(item.outcome, item.thumbnails, provenance=origin))
    return made


def _asked(*numbers: int) -> Asked:
    pictures = pictures_of(_items(*numbers))
    return Asked(images=[(*known, p.image.sha256) for known, p in pictures.items()])


def _decided(
    given: dict[str, Any], asked: Asked, *there: int, handed: Any = None
) -> dict[str, bool | None]:
    found = decisions_of(given, handed or {}, asked, pictures_of(_items(*there)), "b")
    return {known[0]: each.picked for known, each in found.items()}


def test_answers_count_for_what_was_asked_about() -> None:
    asked = _asked(1, 2)
    given = {"picture_1": "reject", "picture_2": "keep"}
    assert _decided(given, asked, 0, 1, 2) == {KEYS[1]: False, KEYS[2]: True}, "another came"
    assert _decided(given, asked, 2, 1) == {KEYS[1]: False, KEYS[2]: True}, "in another order"
    assert _decided(given, asked, 2) == {KEYS[2]: True}, "one is gone"


def test_what_is_another_image_by_now_is_not_decided_on() -> None:
    asked = Asked(images=[(KEYS[1], 1, "f" * 64)])
    assert _decided({"picture_1": "keep"}, asked, 1) == {}


def test_what_came_meanwhile_is_not_the_rest() -> None:
    asked = _asked(0, 1)
    assert _decided({"rest": "reject"}, asked, 0, 1, 2) == {KEYS[0]: False, KEYS[1]: False}


def test_the_form_counts_more_than_the_page_and_the_page_more_than_the_rest() -> None:
    asked = _asked(0, 1, 2)
    handed = {(KEYS[0], 1): Decision(picked=True), (KEYS[1], 1): Decision(picked=True, note="good")}
    given = {"picture_1": "reject", "rest": "reject"}
    assert _decided(given, asked, 0, 1, 2, handed=handed) == {
        KEYS[0]: False,
        KEYS[1]: True,
        KEYS[2]: False,
    }


def test_a_decision_of_earlier_can_be_changed_on_the_page() -> None:
    handed = {(KEYS[5], 1): Decision(picked=False)}
    assert _decided({}, _asked(0), 0, 5, handed=handed) == {KEYS[5]: False}


@pytest.mark.parametrize("there", [(0, 1), (0, 1, 2, 3, 4, 5, 6, 7), ()])
def test_the_form_is_the_same_whatever_there_is_now(there: tuple[int, ...]) -> None:
    """Prefect checks an answer by it, and refuses fields that it does not know."""
    form = form_of(_asked(0, 1), pictures_of(_items(*there)), "s3://p/review.html")
    assert set(form.model_fields) == {"picture_1", "note_1", "picture_2", "note_2", "picks"}
