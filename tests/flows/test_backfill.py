"""Several days in one run: planned first, and only what is missing is paid."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect_aws import S3Bucket

from prefect_nanobanana import InvalidInput, NanoBananaGenerator, RunFailed, RunReport
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.flows import daily_images
from prefect_nanobanana.flows._backfill import days_between
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
Days = Callable[..., list[RunReport]]
FIRST, LAST = date(2026, 2, 27), date(2026, 3, 2)


@pytest.fixture
def backfill(generator: NanoBananaGenerator, bucket: S3Bucket) -> Days:
    def call(*prompts: Any, **changes: Any) -> list[RunReport]:
        settings: dict[str, Any] = {
            "generator": generator,
            "bucket": bucket,
            "from_day": FIRST,
            **changes,
        }
        found: Any = daily_images(prompts=list(prompts), **{"to_day": LAST, **settings})
        assert isinstance(found, list)
        return found

    return call


def test_the_days_that_are_missing_are_made(
    backfill: Days,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
) -> None:
    daily_images(prompts=["{date}", "b"], generator=generator, bucket=bucket, day=date(2026, 2, 28))
    assert sandbox.account.charged == 2
    reports = backfill("{date}", "b")
    assert [report.batch for report in reports] == [
        "daily-2026-02-27",
        "daily-2026-03-01",
        "daily-2026-03-02",
    ]
    assert reports[1].outcomes[0].prompt.prompt == "2026-03-01"
    assert (sandbox.account.posts, sandbox.account.charged) == (8, 8)
    # The price of all of them was said before the first request.
    lines = [record.getMessage() for record in caplog.records]
    plan = "Batch 'daily-2026-02-27-to-2026-03-02': 8 prompts: 6 new, 2 done before; 6 credits"
    said = next(n for n, line in enumerate(lines) if line.startswith(plan))
    assert not [line for line in lines[:said] if "'daily-2026-02-27':" in line]
    assert backfill("{date}", "b") == []
    assert sandbox.account.posts == 8


def test_a_dry_run_says_what_all_days_would_cost(
    backfill: Days, sandbox: Sandbox, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert backfill("{date}", dry_run=True) == []
    assert sandbox.account.posts == 0
    assert not folder.exists()
    assert "4 prompts: 4 new; 4 credits" in caplog.text
    assert "4 days of 4 would be run; nothing was spent" in caplog.text


def test_its_message_says_what_it_did(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    state: Any = daily_images(
        prompts=["a"],
        generator=generator,
        bucket=bucket,
        from_day=FIRST,
        to_day=LAST,
        max_credits=3,
        return_state=True,
    )
    assert state.message == "4 days: 4 had something missing; 3 credits used, 1 skipped"
    assert state.is_completed()
    assert sandbox.account.charged == 3, "for all of them together"


def test_a_day_that_was_not_published_is(backfill: Days, bucket: S3Bucket, sandbox: Sandbox) -> None:
    """Its run died after the last picture: nothing is left to pay, but nobody sees it."""
    backfill("a")
    store = ObjectStore(bucket)
    manifest = store.key("daily-2026-02-28", "manifest.jsonl")
    store.remove(manifest)
    (report,) = backfill("a")
    assert (report.batch, report.credits_used, sandbox.account.posts) == ("daily-2026-02-28", 0, 4)
    assert store.head(manifest) is not None


def test_a_retry_says_again_what_went_wrong(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    """A day with a prompt that is paid and failed is not made well by doing nothing."""
    sandbox.faults.queue(None, "failed")
    retried = daily_images.with_options(retries=1, retry_delay_seconds=0)
    settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "return_state": True}
    state: Any = retried(prompts=["a"], from_day=FIRST, to_day=LAST, **settings)
    assert state.is_failed()
    assert (sandbox.account.posts, sandbox.account.charged) == (4, 4)


def test_within_the_budget(backfill: Days, bucket: S3Bucket, sandbox: Sandbox) -> None:
    budget = NanoBananaBudget(credits=5, bucket=bucket)
    reports = backfill("a", "b", budget=budget)
    assert sum(report.stored for report in reports) == sandbox.account.charged == 5
    assert budget.left() == 0


def test_a_day_that_fails_keeps_none_of_the_others(backfill: Days, sandbox: Sandbox) -> None:
    sandbox.faults.queue(None, "400")
    with pytest.raises(RunFailed, match="1 failed"):
        backfill("a")
    assert sandbox.account.charged == 3


def test_a_day_that_cannot_be_planned_spends_nothing(
    backfill: Days, sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "2026-02-27.txt").write_text("a")
    with pytest.raises(InvalidInput, match="2026-02-28.txt cannot be read"):
        backfill(prompts_from=f"{tmp_path}/{{date}}.txt")
    assert sandbox.account.posts == 0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"from_day": None}, "from_day: is missing"),
        ({"to_day": date(2026, 2, 1)}, "is before from_day"),
        ({"to_day": date(2999, 1, 1)}, "is yet to come"),
        ({"from_day": date(2020, 1, 1)}, "days are more than 366"),
        ({"day": FIRST}, "leave out day"),
    ],
)
def test_what_is_no_range_is_refused(
    backfill: Days, sandbox: Sandbox, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        backfill("a", **changes)
    assert sandbox.account.posts == 0


def test_a_range_ends_today_if_nothing_else_is_said() -> None:
    today = datetime.now(UTC).date()
    assert days_between(today - timedelta(days=2), None, today)[-1] == today
