"""A batch a day: which day it is, what becomes of the prompts, and what a second run pays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect_aws import S3Bucket

from prefect_nanobanana import ImagePrompt, InvalidInput, NanoBananaGenerator, RunFailed, RunReport
from prefect_nanobanana.flows import _daily as daily
from prefect_nanobanana.flows._daily import daily_images
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
MONDAY = date(2026, 11, 23)


class Scheduled:
    """Stands for `prefect.runtime.flow_run`, of a run that was scheduled for this time."""

    def __init__(self, time: datetime, run_count: int = 1) -> None:
        self.get_scheduled_start_time = lambda: time
        self.get_run_count = lambda: run_count


@pytest.fixture
def today(generator: NanoBananaGenerator, bucket: S3Bucket) -> Callable[..., RunReport | None]:
    def call(*prompts: Any, **changes: Any) -> RunReport | None:
        settings = {"generator": generator, "bucket": bucket, **changes}
        report: RunReport | None = daily_images(prompts=list(prompts), **settings)
        return report

    return call


def test_a_day_is_paid_once(today: Callable[..., RunReport], sandbox: Sandbox, folder: Path) -> None:
    first = today("a cat", "a dog", day=MONDAY)
    assert first.batch == "daily-2026-11-23"
    assert (first.stored, first.credits_used) == (2, 2)
    again = today("a cat", "a dog", day=MONDAY)
    assert (again.batch, again.stored, again.credits_used) == ("daily-2026-11-23", 2, 0)
    assert sandbox.account.posts == 2
    following = today("a cat", "a dog", day=MONDAY + timedelta(days=1))
    assert (following.batch, following.credits_used) == ("daily-2026-11-24", 2)
    assert {path.name for path in folder.iterdir()} >= {"daily-2026-11-23", "daily-2026-11-24"}


def test_a_dry_run_asks_for_nothing(
    today: Callable[..., RunReport], sandbox: Sandbox, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = today("a", "b", dry_run=True)
    assert (report.skipped, sandbox.account.posts) == (2, 0)
    assert not folder.exists()
    assert "nothing spent: 2 of 2 prompts would be asked for" in caplog.text


def test_the_day_in_the_prompts(today: Callable[..., RunReport], tmp_path: Path) -> None:
    (tmp_path / "2026-11-23.txt").write_text("from a file, {date}\n")
    report = today(
        "{weekday}, {day} {month} {year}: {date}, {date}",
        "a set {a, b}, {0}, {prompt!r}, {{date}}, { date }",
        ImagePrompt(prompt="{weekday}", name="cover-{date}", quantity=2),
        prompts_from=f"{tmp_path}/{{date}}.txt",
        day=MONDAY,
        prefix="art/daily",
    )
    assert [outcome.prompt.prompt for outcome in report.outcomes] == [
        "Monday, 23 November 2026: 2026-11-23, 2026-11-23",
        "a set {a, b}, {0}, {prompt!r}, {2026-11-23}, { date }",
        "Monday",
        "from a file, {date}",
    ]
    assert report.outcomes[2].prompt.name == "cover-2026-11-23"
    assert report.outcomes[2].prompt.quantity == 2
    assert report.batch == "art/daily-2026-11-23"


@pytest.mark.parametrize(
    ("time_zone", "batch"),
    [
        ("Etc/UTC", "daily-2026-11-23"),
        ("Pacific/Auckland", "daily-2026-11-24"),
        ("America/Los_Angeles", "daily-2026-11-22"),
    ],
)
def test_the_day_is_that_of_the_schedule(
    today: Callable[..., RunReport], monkeypatch: pytest.MonkeyPatch, time_zone: str, batch: str
) -> None:
    hour = 12 if time_zone == "Pacific/Auckland" else 6
    scheduled = datetime(2026, 11, 23, hour, tzinfo=UTC)
    monkeypatch.setattr(daily, "flow_run", Scheduled(scheduled))
    assert today("a cat", time_zone=time_zone, max_days_late=None).batch == batch


def test_now_if_it_was_not_scheduled(today: Callable[..., RunReport]) -> None:
    before = datetime.now(UTC).date()
    batch = today("a cat").batch
    after = datetime.now(UTC).date()
    assert batch in {f"daily-{before}", f"daily-{after}"}


def test_a_run_that_is_weeks_late_asks_for_nothing(
    today: Callable[..., RunReport | None],
    monkeypatch: pytest.MonkeyPatch,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
) -> None:
    """A worker that comes back from its holidays finds a run per day, and each may spend."""
    now = datetime.now(UTC)
    monkeypatch.setattr(daily, "flow_run", Scheduled(now - timedelta(days=4)))
    assert today("a cat") is None
    state = daily_images(prompts=["a cat"], generator=generator, bucket=bucket, return_state=True)
    assert state.is_completed()
    assert "nothing was asked" in str(state.message)
    assert sandbox.account.posts == 0
    monkeypatch.setattr(daily, "flow_run", Scheduled(now - timedelta(days=3)))
    assert today("a cat") is not None
    # Retry, and a day that was given, are somebody's will.
    monkeypatch.setattr(daily, "flow_run", Scheduled(now - timedelta(days=9), run_count=2))
    assert today("a cat") is not None
    monkeypatch.setattr(daily, "flow_run", Scheduled(now - timedelta(days=9)))
    assert today("a cat", day=MONDAY) is not None


@pytest.mark.parametrize("name", ["Europe/Atlantis", "Europe", "../etc/passwd", "", "/etc/localtime"])
def test_a_time_zone_that_is_none(today: Callable[..., RunReport], sandbox: Sandbox, name: str) -> None:
    with pytest.raises(InvalidInput, match="time_zone: there is no"):
        today("a cat", time_zone=name)
    assert sandbox.account.posts == 0


def test_what_fails_is_told_in_the_same_words(
    today: Callable[..., RunReport], generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    sandbox.faults.queue("failed")
    with pytest.raises(RunFailed) as caught:
        today("x", day=MONDAY)
    assert caught.value.report.failed == 1
    sandbox.faults.queue("failed")
    state = daily_images(
        prompts=["y"], generator=generator, bucket=bucket, day=MONDAY, return_state=True
    )
    assert state.is_failed()
    assert str(state.message).startswith("0 stored, 1 failed")


def test_the_ceiling_and_warnings(today: Callable[..., RunReport]) -> None:
    report = today("a bloody sword", "a cat", "a dog", day=MONDAY, max_credits=2)
    assert (report.credits_used, report.skipped, report.warnings) == (2, 1, 1)
    with pytest.raises(RunFailed):
        today("a bloody sword", day=MONDAY, fail_on="warning")


def test_retries_of_prefect_go_on(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    """What is raised is retried, a state that is returned is not."""
    sandbox.faults.queue(None, "400")
    retried = daily_images.with_options(retries=1, retry_delay_seconds=0)
    # A direct call raises what the first try raised, as Prefect has it, whatever the second one did.
    state = retried(
        prompts=["x", "y"], generator=generator, bucket=bucket, day=MONDAY, return_state=True
    )
    assert state.message == "2 stored; 1 credit used, 1 paid earlier, 98 left"
    assert sandbox.account.posts == 3


def test_its_run_inside_has_a_name_that_automations_know(today: Callable[..., RunReport]) -> None:
    today("a cat", day=date(2020, 2, 29), prefix="named")
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter.model_validate({"name": {"any_": ["images of named-2020-02-29"]}})
        assert len(client.read_flow_runs(flow_run_filter=wanted)) == 1
