"""Money where the world is not what the catalogue, the balance or the bucket say."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flow_checks import statuses
from prefect_aws import S3Bucket
from servers import FaultyS3, Reply, Seen

from prefect_nanobanana import ImagePrompt, InvalidInput, NanoBananaGenerator, RunFailed, RunReport
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.account import GenerationRow
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]
MakeBucket = Callable[..., S3Bucket]


def _really_costs(sandbox: Sandbox, times: int) -> None:
    listed = sandbox.account.cost
    sandbox.account.cost = lambda *asked: times * listed(*asked)  # type: ignore[method-assign]


# Ceilings and prices.


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize("ceiling", [5, 20])
@pytest.mark.parametrize("times", [3, 4])
def test_a_ceiling_holds_whatever_the_catalogue_says(
    run: Run,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
    mode: Any,
    slots: int,
    ceiling: int,
    times: int,
) -> None:
    generator.mode = mode
    sandbox.account.limit = generator.credentials.max_concurrent_requests = slots
    sandbox.latency = (0.05, 0.1)
    _really_costs(sandbox, times)
    report = run(*(f"p{n}" for n in range(12)), max_credits=ceiling)
    assert sandbox.account.charged == report.credits_used <= ceiling
    assert report.credits_used > ceiling - times, "what fits is asked for"
    assert report.stored + report.skipped == 12
    assert "nano-banana costs more than the API lists" in caplog.text


def test_a_second_run_knows_what_the_first_one_paid(run: Run, sandbox: Sandbox) -> None:
    _really_costs(sandbox, 4)
    assert run("a", max_credits=5).credits_used == 4
    again = run(*"abcdef", max_credits=7)
    assert (again.credits_used, again.credits_reused, sandbox.account.charged) == (4, 4, 8)


@pytest.mark.parametrize("price", [0, -1])
def test_a_price_that_is_none_is_refused_under_a_ceiling(run: Run, sandbox: Sandbox, price: int) -> None:
    sandbox.account.models["nano-banana"] = replace(
        sandbox.account.models["nano-banana"], credits_cost=price
    )
    with pytest.raises(InvalidInput, match=f"max_credits: cannot be kept.* at {price} credits"):
        run("a", max_credits=5)
    assert sandbox.account.posts == 0


def test_a_model_that_has_left_the_catalogue_stops_no_resume(run: Run, sandbox: Sandbox) -> None:
    prompts = [ImagePrompt(prompt="a", model="nanobanan-2"), "b"]
    assert run(*prompts).stored == 2
    del sandbox.account.models["nanobanan-2"]
    assert (run(*prompts).stored, sandbox.account.posts) == (2, 2)
    with pytest.raises(InvalidInput, match="the API has no 'nanobanan-2'"):
        run(*prompts, ImagePrompt(prompt="c", model="nanobanan-2"))


# What the balance proves.


def test_a_refund_is_no_proof(run: Run, sandbox: Sandbox) -> None:
    """Charged, answered 500, while somebody else's busy answer gave a credit back."""
    finish = sandbox.finish

    def give_back(row: GenerationRow, fault: str | None) -> None:
        finish(row, fault)
        if fault == "500":
            sandbox.account.credits += 1

    sandbox.finish = give_back  # type: ignore[method-assign]
    sandbox.faults.queue(None, "500")
    report = run("a", "b", "c")
    assert sorted(statuses(report)) == ["stored", "stored", "unknown"]
    assert (sandbox.account.posts, sandbox.account.charged) == (3, 3)


def test_credits_that_came_back_to_us_make_the_balance_no_proof(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    generator.mode = "async"
    sandbox.faults.queue("503", "reset_before")
    report = run("a", "b")
    assert sorted(statuses(report)) == ["stored", "unknown"]
    assert sandbox.account.posts == 3


def test_a_cost_that_is_not_told_is_nobody_elses(run: Run, sandbox: Sandbox) -> None:
    _really_costs(sandbox, 9)
    sandbox.faults.queue("no_credits_told")
    report = run("a")
    assert (report.stored, report.outcomes[0].credits_estimated) == (1, True)
    assert report.credits_of_others in (None, 0)


# Whose refusal it is.


def _refuse(model: str, error: str) -> Callable[[Seen], Reply | None]:
    def fault(seen: Seen) -> Reply | None:
        asked = seen.method == "POST" and f'"{model}"'.encode() in seen.body
        return Reply(f'{{"error": "{error}"}}'.encode(), 403) if asked else None

    return fault


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("nanobanan-2", "This model requires a Pro plan"),
        ("nanobanan-2-2k", "Forbidden"),  # the catalogue says that it needs another plan
    ],
)
def test_a_model_that_needs_another_plan_stops_its_own_prompts_alone(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox, model: str, error: str
) -> None:
    with FaultyS3(sandbox.origin) as api:
        api.fault = _refuse(model, error)
        generator.credentials.base_url = f"{api.url}/api/v1"
        generator.credentials.image_hosts = ["127.0.0.1"]
        prompts = [ImagePrompt(prompt=text, model=model) for text in "xy"]
        report = run(*prompts, "a", "b", "c")
    assert statuses(report)[2:] == ["stored"] * 3
    assert not set(statuses(report)[:2]) & {"stored", "unknown"}
    assert sandbox.account.charged == 3


def test_a_quota_of_the_day_is_not_met_prompt_by_prompt(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    answers: list[str] = []

    def fault(seen: Seen) -> Reply | None:
        if seen.method != "POST":
            return None
        answers.append(seen.path)
        if len(answers) == 1:
            return None
        return Reply(b'{"error": "daily limit reached"}', 429, {"Retry-After": "40000"})

    with FaultyS3(sandbox.origin) as api:
        api.fault = fault
        generator.credentials.base_url = f"{api.url}/api/v1"
        generator.credentials.image_hosts = ["127.0.0.1"]
        report = run(*"abcdefgh")
    assert (report.stored, report.stored + report.skipped + report.failed) == (1, 8)
    assert len(answers) <= 3


# What cannot be stored.


@pytest.mark.parametrize(
    "answer",
    [
        Reply(b"<html><h1>413 Request Entity Too Large</h1></html>", 413),
        Reply(b"", 507),
        Reply(b"<Error><Code>EntityTooLarge</Code><Message>too large</Message></Error>", 400),
        Reply(b"<Error><Code>QuotaExceeded</Code><Message>full</Message></Error>", 403),
    ],
    ids=["a proxy's 413", "507", "EntityTooLarge", "a quota"],
)
def test_a_run_that_cannot_store_what_it_buys_stops_buying(
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    make_bucket: MakeBucket,
    s3: LocalS3,
    answer: Reply,
) -> None:
    sandbox.latency = (0.3, 0.3)
    with FaultyS3(s3.endpoint_url) as proxy:
        images = "/images/"
        proxy.fault = lambda s: answer if s.method == "PUT" and images in s.path else None
        settings: dict[str, Any] = {
            "prompts": [f"p{n}" for n in range(12)],
            "generator": generator,
            "bucket": make_bucket(endpoint_url=proxy.url),
            "batch": "b",
        }
        with pytest.raises(RunFailed) as caught:
            generate_images(**settings)
        report = caught.value.report
        assert report.stored == 0
        assert report.skipped >= 5
        assert sandbox.account.charged == report.credits_used <= 7
        proxy.fault = lambda _: None
        again = generate_images(**settings)
    assert (again.stored, sandbox.account.charged) == (12, 12)


def test_a_bucket_that_lets_nothing_be_overwritten_is_met_before_a_credit_is_spent(
    generator: NanoBananaGenerator, sandbox: Sandbox, make_bucket: MakeBucket, moto_url: str
) -> None:
    written: set[str] = set()
    lock = threading.Lock()

    def fault(seen: Seen) -> Reply | None:
        if seen.method != "PUT":
            return None
        with lock:
            if seen.path in written and "if-none-match" not in map(str.lower, seen.headers):
                words = b"<Error><Code>AccessDenied</Code><Message>objects are locked</Message></Error>"
                return Reply(words, 403)
            written.add(seen.path)
        return None

    with FaultyS3(moto_url) as proxy:
        proxy.fault = fault
        with pytest.raises(Exception, match="objects are locked"):
            generate_images(
                prompts=["a"],
                generator=generator,
                bucket=make_bucket(endpoint_url=proxy.url),
                batch="b",
            )
    assert sandbox.account.posts == 0


# Fewer pictures than asked.


def test_fewer_pictures_than_asked_are_said(run: Run, sandbox: Sandbox) -> None:
    draw = sandbox.finish

    def one_only(row: GenerationRow, fault: str | None) -> None:
        draw(row, fault)
        del row.files[1:]

    sandbox.finish = one_only  # type: ignore[method-assign]
    report = run(ImagePrompt(prompt="a", quantity=3))
    assert (report.stored, report.images, report.credits_used) == (1, 1, 3)
    assert report.credits_without_image == 2
    assert "1 picture came, 3 asked for" in str(report.outcomes[0].message)
