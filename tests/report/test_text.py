"""Texts for people: shortened in one way, and no command to any terminal, page or log."""

from __future__ import annotations

import io
import logging
import re
from typing import Any

import pytest
from galleries import gallery_item
from prefect import flow, get_run_logger
from rich.console import Console

from prefect_nanobanana._common.task_names import run_name
from prefect_nanobanana._common.text import counted, plain, shortened, visible, without_signatures
from prefect_nanobanana.console import live_progress, print_report
from prefect_nanobanana.flows._logs import readable_logs
from prefect_nanobanana.progress import Tracker
from prefect_nanobanana.report._report import build_report

ESCAPES = [
    ("\x1b[2J\x1b[31mred", r"\x1b[2J\x1b[31mred"),
    ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    ("\x1b]8;;https://evil.example\x1b\\click", "\\x1b]8;;https://evil.example\\x1b\\click"),
    ("\x9b31mC1", r"\x9b31mC1"),
    ("over\rwritten", r"over\rwritten"),
    ("back\x08\x7f", r"back\x08\x7f"),
    ("nul\0", r"nul\x00"),
    ("\u202egnp.exe", r"\u202egnp.exe"),
    ("\u2066isolated\u2069", r"\u2066isolated\u2069"),
]
HARMLESS = ["a cat", "line\nand\ttab", "שלום עולם", "👩\u200d🚀", "naïve café", "a\u200fb", ""]


@pytest.mark.parametrize(("text", "shown"), ESCAPES)
def test_what_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert "\x1b" not in plain(text)
    assert "\x1b" not in run_name(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_it_would_only_write_is_left_alone(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "longest", "short"),
    [
        ("a cat", 5, "a cat"),
        ("a cat.", 5, "a..."),
        ("abcdef", 5, "ab..."),
        ("a" * 300, 200, "a" * 197 + "..."),
        ("", 5, ""),
    ],
)
def test_one_way_to_shorten(text: str, longest: int, short: str) -> None:
    assert shortened(text, longest) == short
    assert len(short) <= longest


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1 credit"),
        (0, "0 credits"),
        (0.5, "0.5 credits"),
        (2 / 3, "0.67 credits"),
        (2.0, "2 credits"),
    ],
)
def test_numbers_of_things(number: float, text: str) -> None:
    assert counted(number, "credit") == text


def test_addresses_in_a_text() -> None:
    text = "cannot fetch 'https://me:5ca1ab1e@h.example/a.png?X-Amz-Signature=5ca1ab1e' (404)\nsorry"
    assert without_signatures(text) == "cannot fetch 'https://h.example/a.png' (404)\nsorry"
    assert len(without_signatures("see https://h.example/" + "a" * 900 + " there")) < 220


@pytest.mark.parametrize(("text", "shown"), ESCAPES)
@pytest.mark.parametrize("terminal", [True, False])
def test_the_console_shows_escape_sequences(text: str, shown: str, terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=terminal, color_system=None)
    item = gallery_item(1, text + " x", status="failed", message=f"the API says: {text}")
    report = build_report(
        "b",
        1,
        [item],
        balance_before=None,
        balance_after=None,
        manifest_uri=f"s3://p/{text}",
        gallery_uri=None,
    ).model_copy(update={"batch": f"b[red]{text}"})
    print_report(report, console)
    with live_progress(console):
        Tracker(1).ended(text, "failed", images=0, credits=0, asked=True)
    written = re.sub(r"\x1b\[\??[\d;]*[a-zA-Z]", "", out.getvalue()) if terminal else out.getvalue()
    for raw in ("\x1b", "\x07", "\x9b", "\x08", "\x7f", "\0", "\u202e", "\u2066"):
        assert raw not in written
    assert f"the API says: {shown}" in written
    assert "b[red]" in written, "a batch's name is no markup"
    assert shown[:20] in written


@pytest.mark.parametrize("name", ["generate_images", "copy_pending", "daily_images"])
def test_log_lines_of_our_flows_are_fit_for_any_log(
    prefect_server: None, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    readable_logs()
    seen: list[Any] = []

    @flow(name=name)
    def ours() -> None:
        logger = get_run_logger()
        logger.warning("failed: %r: %s", "a cat", "the API says \x1b[31mno\x07")
        logger.info("see %s", "https://me:5ca1ab1e@h.example/a.png?X-Amz-Signature=5ca1ab1e")
        seen.append(True)

    with caplog.at_level(logging.INFO):
        ours()
    lines = [record.getMessage() for record in caplog.records if record.name == "prefect.flow_runs"]
    assert r"failed: 'a cat': the API says \x1b[31mno\x07" in lines
    assert "see https://h.example/a.png" in lines
    assert "5ca1ab1e" not in caplog.text


def test_log_lines_of_other_flows_are_their_own(
    prefect_server: None, caplog: pytest.LogCaptureFixture
) -> None:
    readable_logs()

    @flow(name="theirs")
    def theirs() -> None:
        get_run_logger().info("\x1b[31m%s", "red")

    with caplog.at_level(logging.INFO):
        theirs()
    assert "\x1b[31mred" in [record.getMessage() for record in caplog.records]
