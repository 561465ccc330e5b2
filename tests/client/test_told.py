"""Answers whose forms nobody planned, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from told_api import ToldApi, made, reply

from prefect_nanobanana import ApiError, Generation
from prefect_nanobanana.client import NanoBananaClient


def ask(api: ToldApi, mode: Any = "sync", quantity: int = 1) -> Generation:
    with NanoBananaClient(
        "nb_key",
        f"{api.url}/api/v1",
        request_timeout_seconds=1,
        retry_for_seconds=0.5,
        plain_http_hosts=["127.0.0.1"],
    ) as client:
        return client.generate("a", mode=mode, quantity=quantity)


@pytest.mark.parametrize("told", ["3", 3.0, "3.", "3.0", "3e0", "0.3E1", " 3 "])
def test_a_cost_in_any_form_is_that_number(told: Any) -> None:
    with ToldApi({"a": [(3, made(creditsUsed=told))]}) as api:
        assert ask(api).credits_used == 3


@pytest.mark.parametrize("told", ["3 credits", "3,0", True, -3, {"n": 3}, [3], "e3", "1e99", "."])
def test_what_is_no_number_is_no_cost(told: Any) -> None:
    with ToldApi({"a": [(3, made(creditsUsed=told))]}) as api:
        assert ask(api).credits_used is None


@pytest.mark.parametrize("status", [400, 402, 403, 404, 409, 413, 422, 429])
@pytest.mark.parametrize(
    ("facts", "end"),
    [
        ({"warning": True, "message": "Content safety check failed", "creditsUsed": 1}, "warning"),
        ({"generationId": "g9", "error": "no image came", "creditsUsed": "1"}, "failed"),
        ({"data": {"generationId": "g9", "errorMessage": "none", "creditsUsed": 1.0}}, "failed"),
    ],
    ids=["a warning", "a failure", "in an envelope"],
)
def test_a_refusal_that_says_what_it_cost_is_a_generation(
    status: int, facts: dict[str, Any], end: str
) -> None:
    with ToldApi({"a": [(1, reply({"success": False, **facts}, status))]}) as api:
        found = ask(api)
    assert (found.status, found.credits_used, api.posts["a"]) == (end, 1, 1)


@pytest.mark.parametrize(
    ("status", "facts"),
    [
        (402, {"error": "no credits left", "creditsUsed": 100, "remainingCredits": 0}),
        (429, {"error": "the daily quota is used up", "creditsUsed": 100, "limit": 100}),
        (400, {"error": "bad parameters", "generationId": "g9", "creditsUsed": 0}),
        (422, {"success": False, "warning": True, "message": "Content safety check failed"}),
    ],
)
def test_what_an_account_has_used_is_no_cost(status: int, facts: dict[str, Any]) -> None:
    with ToldApi({"a": [(0, reply(facts, status))]}) as api, pytest.raises(ApiError) as caught:
        ask(api)
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        ({"imageURLs": ["@1.png"]}, ["1.png"]),
        ({"image_URL": "@1.png"}, ["1.png"]),
        ({"data": [{"url": "@1.png"}]}, ["1.png"]),
        ({"data": [{"imageUrls": ["@1.png"]}]}, ["1.png"]),
        ({"result": {"imageUrls": ["@1.png"]}}, ["1.png"]),
        ({"results": ["@1.png"]}, ["1.png"]),
        ({"images": [{"download_url": "@1.png"}]}, ["1.png"]),
        ({"imageUrls": ["@1.png", "@1.png", "", None]}, ["1.png"]),
        ({"imageUrls": "@my picture 1.png"}, ["my picture 1.png"]),
        ({"imageUrls": "@1.png\n@2.png"}, ["1.png", "2.png"]),
        ({"imageUrls": "@1.png @2.png,@3.png, /4.png"}, ["1.png", "2.png", "3.png", "4.png"]),
    ],
    ids=json.dumps,
)
def test_an_address_of_something_paid_is_read(facts: dict[str, Any], names: list[str]) -> None:
    with ToldApi({"a": [(1, made(**{"imageUrls": None, **facts}))]}) as api:
        assert [url.rpartition("/")[2] for url in ask(api).image_urls] == names


def status(word: str, *images: str) -> Any:
    facts = {"id": "g1", "processingStatus": word, "outputImageUrls": images or None, "creditsUsed": 3}
    return reply({"data": facts})


BEGUN = {"success": True, "async": True, "generationId": "g1", "creditsUsed": 3}


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    ("polls", "came"),
    [
        ([status("processing", "@1.png"), status("completed", "@1.png", "@2.png", "@3.png")], 3),
        ([status("Queued", "@1.png", "@2.png"), status("processing", "@1.png", "@2.png", "@3.png")], 3),
        ([status("processing", "@1.png"), status("completed", "@1.png", "@2.png")], 2),
        ([status("completed"), status("processing"), status("completed", "@1.png")], 1),
        ([status("processing", "@1.png")], 1),
    ],
    ids=["one by one", "all while it runs", "fewer at its end", "backwards", "never ended"],
)
def test_images_that_are_there_before_the_end_are_not_all(
    mode: Any, polls: list[Any], came: int
) -> None:
    with ToldApi({"a": [(3, reply(BEGUN))]}, {"g1": polls}) as api:
        found = ask(api, mode, quantity=3)
    assert (found.status, len(found.image_urls), found.credits_used) == ("completed", came, 3)


def test_where_a_submission_is_looked_up_is_no_image() -> None:
    links = {"urls": {"get": "https://api.example/g1"}, "url": "https://api.example/g1"}
    begun = {"success": True, "async": True, "data": {"id": "g1", "creditsUsed": 1, **links}}
    with ToldApi({"a": [(1, reply(begun))]}, {"g1": [status("completed", "@1.png")]}) as api:
        assert [url.rpartition("/")[2] for url in ask(api, "async").image_urls] == ["1.png"]
