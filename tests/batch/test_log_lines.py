"""What a run's log and memory hold of thousands of prompts is bounded."""

from __future__ import annotations

import logging

import pytest
from galleries import gallery_item

from prefect_nanobanana.batch._log_lines import OWN_LINES, LogLines
from prefect_nanobanana.batch._outcomes import Ended, PreviewRoom


def _said(caplog: pytest.LogCaptureFixture, stored: int, failed: int) -> list[str]:
    caplog.set_level(logging.INFO)
    lines = LogLines(logging.getLogger("lines"), stored + failed)
    for n in range(stored):
        lines.ended("stored", f"stored {n}")
    for n in range(failed):
        lines.ended("failed", f"failed {n}")
    return [record.getMessage() for record in caplog.records if record.name == "lines"]


def test_a_short_list_gets_a_line_per_prompt(caplog: pytest.LogCaptureFixture) -> None:
    assert _said(caplog, 2, 1) == ["stored 0", "stored 1", "failed 0"]
    own = [record for record in caplog.records if record.name == "lines"]
    assert [record.levelname for record in own] == ["INFO", "INFO", "WARNING"]


def test_a_list_that_just_fits_says_no_more(caplog: pytest.LogCaptureFixture) -> None:
    assert _said(caplog, OWN_LINES, 0)[-1] == f"stored {OWN_LINES - 1}"


def test_a_long_list_gets_a_line_per_hundred(caplog: pytest.LogCaptureFixture) -> None:
    """Failures have their own lines though thousands are stored; thousands of them have none either."""
    said = _said(caplog, 5 * OWN_LINES, 2 * OWN_LINES + 5)
    assert [line for line in said if line.startswith("failed")] == [
        f"failed {n}" for n in range(OWN_LINES)
    ]
    assert len(said) < 2 * OWN_LINES + 70
    assert "Of further prompts that have images only the number is said" in said
    assert "1100 of 7005: 1100 stored" in said
    assert said[-1] == "7005 of 7005: 5000 stored, 2005 failed"


def test_progress_has_lines_for_as_many(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lines = LogLines(logging.getLogger("lines"), 10)
    for n in range(2 * OWN_LINES):
        lines.moved(f"{n} %")
    said = [r.getMessage() for r in caplog.records if r.name == "lines"]
    assert said == [f"{n} %" for n in range(OWN_LINES)]


def test_previews_have_room_for_the_gallery_page_and_no_more() -> None:
    """What ends too late for it is kept without."""
    item = gallery_item(1)
    size = sum(map(len, item.thumbnails))
    assert size
    room = PreviewRoom(2 * size)
    ends = [Ended("b", "key", "stored", "stored", 1, 1, item) for _ in range(4)]
    kept = [room.kept(end).item for end in ends]
    assert [bool(each.thumbnails[0]) for each in kept] == [True, True, False, False]
    assert all(each.outcome == item.outcome for each in kept)
