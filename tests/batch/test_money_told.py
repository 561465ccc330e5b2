"""What answers say of money in forms and at moments that nobody planned, against the server's books."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flow_checks import statuses
from memory_s3 import MemoryS3
from prefect_aws import S3Bucket
from servers import Reply
from told_api import ToldApi, made, reply, runs

from prefect_nanobanana.report import summary

pytestmark = pytest.mark.usefixtures("prefect_server")
MakeBucket = Callable[..., S3Bucket]
EVENTS = {"Content-Type": "text/event-stream"}


@pytest.fixture
def bucket(make_bucket: MakeBucket) -> Any:
    with MemoryS3() as store:
        yield make_bucket(endpoint_url=store.url)


# What the balance proves.


@pytest.mark.parametrize(
    ("mode", "broken"),
    [
        ("sync", reply(b'{"error": "x"}', 500, length=400)),
        ("sync", reply(b'{"success": tr', length=400)),
        ("sync", reply(b"", 502, length=9)),
        ("stream", reply(b'data: {"type": "status", "progress": 3}\n\n', headers=EVENTS)),
        ("stream", reply(b'data: {"type": "status"}\n\ndata: {"ty', headers=EVENTS, length=900)),
        ("stream", reply(b'data: {"type": "complete", "data": {}}\n\n', headers=EVENTS)),
    ],
    ids=["a 500", "a 200", "a 502", "a stream's end", "a stream", "the last event says nothing"],
)
def test_an_answer_that_breaks_off_is_an_answer(bucket: S3Bucket, mode: Any, broken: Reply) -> None:
    """It was charged, and a purchase of as much hides that: the balance proves nothing."""
    with ToldApi({"a": [(1, broken), (1, made())], "b": [(1, made(2))]}) as api:
        api.bought = 1
        report = runs(api, bucket, mode)("a", "b")
        assert (statuses(report), api.posts["a"]) == (["unknown", "stored"], 1)


# Refusals that cost.


@pytest.mark.parametrize(
    ("status", "facts", "end"),
    [
        (422, {"warning": True, "message": "Content safety check failed", "creditsUsed": 1}, "warning"),
        (400, {"generationId": "g9", "error": "no image came", "creditsUsed": "1"}, "failed"),
        (429, {"data": {"generationId": "g9", "errorMessage": "none", "creditsUsed": 1.0}}, "failed"),
    ],
    ids=["a warning", "a failure", "in an envelope"],
)
def test_a_refusal_that_says_what_it_cost_is_paid_once(
    bucket: S3Bucket, status: int, facts: dict[str, Any], end: str
) -> None:
    refusal = reply({"success": False, **facts}, status)
    with ToldApi({"a": [(1, refusal), (1, made())], "b": [(1, made(2))]}) as api:
        run = runs(api, bucket)
        report = run("a", "b")
        assert (statuses(report), report.credits_used) == ([end, "stored"], 2)
        assert report.credits_of_others == 0
        assert statuses(run("a", "b")) == [end, "stored"]
        assert api.posts == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("status", "facts"),
    [
        (402, {"error": "no credits left", "creditsUsed": 100, "remainingCredits": 0}),
        (429, {"error": "the quota of today is used up", "creditsUsed": 100, "limit": 100}),
        (400, {"error": "bad parameters", "generationId": "g9", "creditsUsed": 0}),
        (422, {"success": False, "warning": True, "message": "Content safety check failed"}),
    ],
)
def test_what_an_account_has_used_is_no_cost(
    bucket: S3Bucket, status: int, facts: dict[str, Any]
) -> None:
    with ToldApi(
        {"a": [(0, reply(facts, status, headers={"Retry-After": "9999"})), (1, made())]}
    ) as api:
        run = runs(api, bucket)
        assert run("a").credits_used == 0
        assert (run("a").stored, api.posts["a"]) == (1, 2)


# Estimates.


def test_a_cost_that_was_estimated_confirms_no_price(bucket: S3Bucket) -> None:
    """It was estimated when it was submitted, and no answer told it later, in another run."""
    begun = reply({"success": True, "async": True, "generationId": "g0"})
    ended = reply({"data": {"id": "g0", "processingStatus": "completed", "outputImageUrls": ["@0.png"]}})
    answers = {text: [(9, made(n, creditsUsed=9))] for n, text in enumerate("bcdef", 1)}
    with ToldApi({"a": [(9, begun)], **answers}, {"g0": [reply({}, 500)]}) as api:
        run = runs(api, bucket, "async", slots=5)
        assert statuses(run("a")) == ["unknown"]
        api.polls["g0"] = [ended]
        report = run(*"abcdef", max_credits=10)
        assert report.outcomes[0].credits_estimated
        assert (report.credits_used, api.charged.total()) == (9, 18)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_estimate_is_made_by_what_answers_told(bucket: S3Bucket, mode: Any) -> None:
    with ToldApi({"a": [(4, made(creditsUsed=4))], "b": [(4, made(2, creditsUsed=None))]}) as api:
        run = runs(api, bucket, mode)
        assert run("a").credits_used == 4
        report = run("a", "b")
    assert report.outcomes[1].credits_estimated
    assert (report.credits_used, report.credits_unexplained) == (4, 0)


# Whose credits.


@pytest.mark.parametrize("others", [0, 5])
def test_what_another_run_of_the_batch_pays_meanwhile_is_said_to_be_its(
    bucket: S3Bucket, waiting: Callable[..., None], wait_for: Callable[..., None], others: int
) -> None:
    waiting(await_other_for=20.0)
    texts = ["a", "b", "c"]
    with ToldApi({text: [(1, made(n))] for n, text in enumerate(texts)}, seconds=1.5) as api:
        run = runs(api, bucket, patience=30.0)
        api.answering.clear()
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(contextvars.copy_context().run, run, *texts) for _ in range(2)]
            wait_for(lambda: api.posts.total() > 0 and api.asked_for_balance > 1)
            api.balance -= others
            api.answering.set()
            reports = [each.result() for each in both]
    assert sum(report.credits_used for report in reports) == api.charged.total() == 3
    for report in reports:
        assert report.stored == 3
        theirs = report.credits_of_other_runs  # at most: some may have been paid before this one began
        assert others - theirs <= (report.credits_of_others or 0) <= others
        said = summary(report)
        assert ("another run of this batch" in said) is bool(theirs and report.credits_unexplained)
        assert ("someone else" in said) is (others > 0)
    assert sum(report.credits_of_other_runs for report in reports) <= 3


def test_an_account_in_debt_is_said_to_be(bucket: S3Bucket, caplog: pytest.LogCaptureFixture) -> None:
    with ToldApi({"a": [(1, made())]}, balance=-5) as api:
        assert runs(api, bucket)("a").balance_before == -5
    assert "The account is in debt: it has -5 credits" in caplog.text
