"""Runs that share a budget: what they spend, what they skip, and what they say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flow_checks import statuses
from prefect_aws import S3Bucket
from pydantic import ValidationError
from servers import FaultyS3, Seen, s3_error

from prefect_nanobanana import Generation, ImagePrompt, InvalidInput, NanoBananaGenerator, RunReport
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._shared import SpentByRecords
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.budgets._grants import TIMES
from prefect_nanobanana.flows import _call, daily_images, generate_images, plan_images
from prefect_nanobanana.models import ImageModel, ImageRequest
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]
MakeBucket = Callable[..., S3Bucket]
MODEL = ImageModel(name="nano-banana", credits_cost=1)


@pytest.fixture
def budget(bucket: S3Bucket) -> NanoBananaBudget:
    return NanoBananaBudget(credits=5, bucket=bucket)


def test_what_does_not_fit_is_skipped_and_nobody_is_alarmed(
    generator: NanoBananaGenerator, bucket: S3Bucket, budget: NanoBananaBudget, sandbox: Sandbox
) -> None:
    prompts = [f"p{n}" for n in range(8)]
    settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "budget": budget}
    state = generate_images(prompts=[*prompts], **settings, batch="b", return_state=True)
    report = state.result()
    assert state.is_completed()
    assert (report.stored, report.skipped, sandbox.account.charged) == (5, 3, 5)
    (why,) = {str(outcome.message) for outcome in report.outcomes if outcome.status == "skipped"}
    assert why.startswith("the budget does not suffice: 'default' has 0 of 5 credits left until 20")
    assert why.endswith("-01 00:00 Etc/UTC")
    assert budget.left() == 0
    # Another batch, another flow: one budget.
    day: Any = daily_images(prompts=["x"], **settings)
    assert day.skipped == 1
    assert sandbox.account.charged == 5
    # More credits, and the same call asks for the rest alone.
    more = budget.model_copy(update={"credits": 7})
    report = generate_images(**{**settings, "budget": more}, prompts=[*prompts], batch="b")
    assert (report.stored, report.skipped, sandbox.account.charged) == (7, 1, 7)
    assert more.left() == 0


def test_cheaper_prompts_that_still_fit_may_go(
    run: Run, budget: NanoBananaBudget, sandbox: Sandbox
) -> None:
    dear = ImagePrompt(prompt="dear", quantity=4)
    report = run("a", "b", dear, "c", budget=budget)
    assert statuses(report) == ["stored", "stored", "skipped", "stored"]
    assert (sandbox.account.charged, budget.left()) == (3, 2)


def test_what_is_paid_already_needs_no_budget(
    run: Run, budget: NanoBananaBudget, sandbox: Sandbox
) -> None:
    assert run("a", "b").stored == 2
    nothing = budget.model_copy(update={"credits": 0})
    report = run("a", "b", "c", budget=nothing)
    assert (report.stored, report.skipped, sandbox.account.charged) == (2, 1, 2)


def test_a_ceiling_holds_beside_a_budget(run: Run, budget: NanoBananaBudget, sandbox: Sandbox) -> None:
    report = run("a", "b", "c", budget=budget, max_credits=2)
    assert [o.message for o in report.outcomes if o.status == "skipped"] == ["max_credits is reached"]
    assert (sandbox.account.charged, budget.left()) == (2, 3)


def test_warnings_failures_and_what_is_unknown_count(
    run: Run, budget: NanoBananaBudget, sandbox: Sandbox
) -> None:
    sandbox.account.credits = 1000
    sandbox.faults.queue("warning", "failed", "reset_after")
    report = run("a", "b", "c", "d", budget=budget, fail_on="never")
    assert sorted(statuses(report)) == ["failed", "stored", "unknown", "warning"]
    assert sandbox.account.charged == 4
    assert budget.left() == 1


def test_a_refusal_that_costs_nothing_counts_nothing(
    run: Run, budget: NanoBananaBudget, sandbox: Sandbox
) -> None:
    sandbox.faults.queue("400", None)
    assert sorted(statuses(run("a", "b", budget=budget, fail_on="never"))) == ["failed", "stored"]
    assert (sandbox.account.charged, budget.left()) == (1, 4)


@pytest.mark.parametrize("slots", [1, 6])
def test_a_price_that_is_higher_than_listed_overruns_by_what_was_under_way(
    run: Run, generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, slots: int
) -> None:
    """Until the first answer tells, requests leave at the listed price; from then on at the real one."""
    sandbox.account.limit = generator.credentials.max_concurrent_requests = slots
    sandbox.latency = (0.05, 0.1)
    listed = sandbox.account.cost
    sandbox.account.cost = lambda *asked: 3 * listed(*asked)  # type: ignore[method-assign]
    budget = NanoBananaBudget(credits=20, bucket=bucket)
    report = run(*(f"p{n}" for n in range(30)), budget=budget)
    assert sandbox.account.charged == report.credits_used
    assert 18 <= sandbox.account.charged <= 20 + 2 * slots
    assert budget.left() == max(0, 20 - sandbox.account.charged)


@pytest.mark.parametrize("price", [0, -1])
def test_a_price_that_is_none_is_refused(
    run: Run, budget: NanoBananaBudget, sandbox: Sandbox, price: int
) -> None:
    model = sandbox.account.models["nano-banana"]
    sandbox.account.models["nano-banana"] = replace(model, credits_cost=price)
    with pytest.raises(InvalidInput, match=f"budget: cannot be kept.* at {price} credits"):
        run("a", budget=budget)
    with pytest.raises(InvalidInput, match="approve_above: cannot be kept"):
        run("a", approve_above=5)
    assert sandbox.account.posts == 0


def test_a_plan_says_what_is_left(
    generator: NanoBananaGenerator, bucket: S3Bucket, budget: NanoBananaBudget, sandbox: Sandbox
) -> None:
    settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "budget": budget}
    state = plan_images(prompts=[f"p{n}" for n in range(6)], **settings, return_state=True)
    assert state.result().budget_left == 5
    assert str(state.message).endswith(
        "6 credits; 100 in the account, 94 after; the budget ends it at 5"
    )
    assert not plan_images(prompts=["a"], **settings).warnings
    assert (sandbox.account.posts, budget.left()) == (0, 5)


def test_books_that_cannot_be_used_stop_the_run_before_it_spends(
    run: Run, make_bucket: MakeBucket, s3: LocalS3, sandbox: Sandbox
) -> None:
    with FaultyS3(s3.endpoint_url) as front:
        away = make_bucket(endpoint_url=front.url)

        def refuse(seen: Seen) -> Any:
            return s3_error(403, "AccessDenied") if seen.method == "PUT" else None

        front.fault = refuse
        report = run("a", "b", budget=NanoBananaBudget(credits=5, bucket=away))
    assert (report.skipped, sandbox.account.posts) == (2, 0)
    assert "the budget's books cannot be used" in str(report.outcomes[0].message)
    assert "AccessDenied" in str(report.outcomes[0].message)


def test_a_budget_costs_one_request_for_twenty_prompts(
    run: Run, make_bucket: MakeBucket, s3: LocalS3, sandbox: Sandbox
) -> None:
    sandbox.account.credits = 1000
    with FaultyS3(s3.endpoint_url) as front:
        books = make_bucket(endpoint_url=front.url)
        budget = NanoBananaBudget(credits=10_000, bucket=books)
        report = run(*(f"p{n}" for n in range(200)), budget=budget)
        asked = len(front.seen)
    assert report.stored == 200
    assert asked <= 200 / 20 + 6, "beside those that join in and that give back"


def test_runs_at_the_same_time_share_it(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    sandbox.account.limit = generator.credentials.max_concurrent_requests = 4
    sandbox.latency = (0.0, 0.05)
    budget = NanoBananaBudget(credits=25, bucket=bucket)

    def one(n: int) -> RunReport:
        prompts: list[Any] = [f"{n} {m}" for m in range(12)]
        found: RunReport = generate_images(
            prompts=prompts, generator=generator, bucket=bucket, batch=f"b{n}", budget=budget
        )
        return found

    with ThreadPoolExecutor(4) as pool, TIMES.use(replace(TIMES.get(), room=0.0)):
        reports = list(pool.map(one, range(4)))
    assert sandbox.account.charged == sum(report.stored for report in reports) <= 25
    assert sandbox.account.charged >= 20, "next to nothing is left lying"
    assert budget.left() == 25 - sandbox.account.charged


def test_what_a_process_has_spent_is_what_its_records_say(bucket: S3Bucket) -> None:
    """With what may have been its, too; and nothing is said where nothing is known."""
    store, ledger = ObjectStore(bucket), Ledger(ObjectStore(bucket), "b")
    uri = store.address(ledger.key())
    spent = SpentByRecords(store, Prices({"nano-banana": MODEL}))
    assert spent(uri, "dead") is None, "no records: somebody has removed them"

    def asked(key: str, ticket: str) -> Record:
        request = ImageRequest(prompt=key)
        record = Record(key=key, prompt=ImagePrompt(prompt=key), request=request)
        return record.asking(record.prompt, request, "me", 0, ticket)

    done = Generation(status="completed", credits_used=3, image_urls=("https://x.test/1",))
    for record in (
        asked("one", "dead-1-").answered(done, 3),
        asked("two", "dead-2-"),  # maybe paid
        asked("three", "dead-3-").not_charged("no"),
        asked("four", "other-1-").answered(done, 3),
    ):
        ledger.write(record)
    assert SpentByRecords(store, Prices({"nano-banana": MODEL}))(uri, "dead") == 6, (
        "at the price that was told"
    )
    assert SpentByRecords(store, Prices({}))(uri, "dead") is None, "no price of what may be paid"
    assert spent("s3://elsewhere/b", "dead") is None
    assert spent(f"01234567:{store.uri(ledger.key())}", "dead") is None, "in another store"
    again = asked("one", "dead-1-").answered(done, 3)
    ledger.write_once(again.asking(again.prompt, again.request, "you", 3, "other-2-"))
    found = SpentByRecords(store, Prices({"nano-banana": MODEL}))(uri, "dead")
    assert found == 6, "asked again by another one: it may have been ours that cost something"


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("credits", -1, "greater than or equal to 0"),
        ("period", "year", "'day', 'week' or 'month'"),
        ("time_zone", "Berlin", "is not a time zone: use a name as Europe/Berlin"),
        ("time_zone", "Europe", "is not a time zone"),
        ("name", "", "at least 1 character"),
    ],
)
def test_a_wrong_block_says_what_is_wrong(bucket: S3Bucket, field: str, value: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        NanoBananaBudget(**{"credits": 5, "bucket": bucket, field: value})


def test_a_budget_as_people_write_it(bucket: S3Bucket) -> None:
    made = NanoBananaBudget.from_text("500/week", bucket, time_zone="Europe/Berlin")
    assert (made.credits, made.period, made.time_zone) == (500, "week", "Europe/Berlin")
    assert NanoBananaBudget.from_text("20", bucket).period == "month"
    for text, why in (("much/month", "valid integer"), ("5/year", "'day', 'week' or 'month'")):
        with pytest.raises(InvalidInput, match=f"budget: '{text}': .*{why}.*: write it as 500/month"):
            NanoBananaBudget.from_text(text, bucket)


def test_the_books_are_beside_the_batches(run: Run, budget: NanoBananaBudget, folder: Path) -> None:
    run("a", budget=budget)
    (books,) = (folder / "nanobanana-budgets" / "default").iterdir()
    assert len(books.name) == len("2026-11")


def test_it_is_loaded_by_name_as_a_block(prefect_server: None, budget: NanoBananaBudget) -> None:
    budget.bucket.credentials.save("budget-store", overwrite=True)
    budget.bucket.save("budget-bucket", overwrite=True)
    budget.save("pictures", overwrite=True)
    loaded = NanoBananaBudget.load("pictures")
    assert isinstance(loaded, NanoBananaBudget)
    assert (loaded.terms, loaded.left()) == (budget.terms, 5)


def test_what_it_says_is_in_the_log(
    run: Run, budget: NanoBananaBudget, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(*(f"p{n}" for n in range(7)), budget=budget)
    assert "the budget ends it at 5" in caplog.text
    assert "skipped: 'p5': the budget does not suffice" in caplog.text


def test_two_stores_with_the_same_names_do_not_settle_each_other(
    bucket: S3Bucket, make_bucket: MakeBucket, moto_url: str
) -> None:
    budget = NanoBananaBudget(credits=10, bucket=bucket)
    other = make_bucket(endpoint_url=moto_url, bucket_folder=bucket.bucket_folder)
    prices = Prices({"nano-banana": MODEL})

    def spend(block: S3Bucket, credits: int) -> bool:
        store = ObjectStore(block)
        ledger = Ledger(store, "daily")
        request = ImageRequest(prompt="x")
        record = Record(key="x", prompt=ImagePrompt(prompt="x"), request=request)
        ledger.write(record)
        spent = SpentByRecords(store, prices)
        grants = budget.grants(store.address(ledger.key()), spent)
        granted = grants.extend(credits, ahead=0, spent=0)
        grants.close(credits if granted else 0)
        return granted

    assert spend(bucket, 9)
    assert not spend(other, 5)
    assert budget.left() == 1


@pytest.mark.parametrize("bound", ["max_credits", "budget"])
@pytest.mark.timeout(60)
def test_what_another_call_found_to_be_free_holds_up_nobody(
    bound: str,
    run: Run,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Call X paid, and is retried; call Y asked again meanwhile, and that cost nothing."""
    generator.credentials.max_concurrent_requests = sandbox.account.limit = 2
    sandbox.faults.queue("failed")
    assert run("a", fail_on="never").failed == 1
    ledger = Ledger(ObjectStore(bucket), "b")
    (record,) = ledger.read_others(()).values()
    assert record.generation is not None
    free = record.generation.model_copy(update={"credits_used": 0})
    changes = {"asked_by": "Y", "paid_by": {"X": 5}, "credits_before": 5, "credits_used": 0}
    ledger.write_once(record.model_copy(update={**changes, "generation": free}))
    monkeypatch.setattr(_call, "asker", lambda *_args, **_settings: "X")
    value: Any = 6 if bound == "max_credits" else NanoBananaBudget(credits=1, bucket=bucket)
    report = run("a", "b", fail_on="never", **{bound: value})
    assert sorted(statuses(report)) == ["skipped", "stored"]
    assert sandbox.account.charged == 2
