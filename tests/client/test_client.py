"""Every row of the API's error table and every shape of its answers, over real HTTP, sync and async."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from servers import Reply, Scripted, Seen

from prefect_nanobanana import errors
from prefect_nanobanana._common.backoff import Backoff
from prefect_nanobanana._common.http import retry_after_seconds
from prefect_nanobanana.client import AsyncNanoBananaClient, NanoBananaClient
from prefect_nanobanana.client._generations import read_generation
from prefect_nanobanana.client._payload import Answer
from prefect_nanobanana.client._timings import Timings
from prefect_nanobanana.errors import (
    AccessNotEnabled,
    AnswerNotUnderstood,
    ApiError,
    AuthenticationFailed,
    BadRequest,
    ConcurrencyLimitReached,
    CreditsUsedUp,
    NeverDelivered,
    NotCharged,
    ServerBusy,
    StillRunning,
    UnknownOutcome,
)
from prefect_nanobanana.models import Generation
from prefect_nanobanana.sandbox import Sandbox

Ask = Callable[..., Any]
KEY = "nb_very-secret-key"


def _sync(url: str, method: str, *args: Any, key: str = KEY, options: Any = None, **kwargs: Any) -> Any:
    with NanoBananaClient(key, url, **(options or {})) as client:
        return getattr(client, method)(*args, **kwargs)


def _async(url: str, method: str, *args: Any, key: str = KEY, options: Any = None, **kwargs: Any) -> Any:
    async def run() -> Any:
        async with AsyncNanoBananaClient(key, url, **(options or {})) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Calls a method of a new client."""
    return request.param  # type: ignore[no-any-return]


def _json(body: Any, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps(body).encode(), status, named)


def test_text_to_image(ask: Ask, sandbox: Sandbox) -> None:
    generation = ask(sandbox.base_url, "generate", "a cat", key=sandbox.api_key)
    assert generation.status == "completed"
    assert generation.credits_used == 1
    assert generation.remaining_credits == 99 == sandbox.account.credits
    assert [url.removeprefix(sandbox.origin) for url in generation.image_urls] == list(sandbox.images)
    _, _, headers = sandbox.requests[-1]
    assert headers["user-agent"].startswith("prefect-nanobanana/")


def test_image_to_image_sends_every_field(ask: Ask) -> None:
    with Scripted(lambda _: _json({"success": True, "imageUrls": ["https://i/x.png"]})) as server:
        ask(
            server.url,
            "generate",
            "a cat",
            model="nanobanan2&pro",
            aspect_ratio="16:9",
            quantity=3,
            reference_image_urls=["https://e/1.png", "https://e/2.png"],
        )
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/generate")
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(seen.body) == {
        "prompt": "a cat",
        "selectedModel": "nanobanan2&pro",
        "mode": "sync",
        "aspectRatio": "16:9",
        "quantity": 3,
        "referenceImageUrls": ["https://e/1.png", "https://e/2.png"],
    }


def test_defaults_are_not_sent(ask: Ask) -> None:
    with Scripted(lambda _: _json({"success": True, "imageUrls": ["https://i/x.png"]})) as server:
        ask(server.url, "generate", "a cat")
    assert json.loads(server.seen[0].body) == {
        "prompt": "a cat",
        "selectedModel": "nano-banana",
        "mode": "sync",
    }


SUCCESS = {"success": True, "generationId": "clxx1", "imageUrls": ["https://i/1.png"]}
BOOKS = {"creditsUsed": 1, "remainingCredits": 99}
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "success": (
        {**SUCCESS, **BOOKS},
        {"status": "completed", "generation_id": "clxx1", "credits_used": 1, "remaining_credits": 99},
    ),
    "warning": (
        {"success": False, "warning": True, "generationId": "c", "message": "Content safety", **BOOKS},
        {"status": "warning", "credits_used": 1, "image_urls": (), "message": "Content safety"},
    ),
    "warning without words": (
        {"success": False, "warning": True},
        {"status": "warning", "credits_used": None, "message": "the safety check refused it"},
    ),
    "failure at 200": (
        {"success": False, "error": "no image", **BOOKS},
        {"status": "failed", "message": "no image", "credits_used": 1},
    ),
    "failure without words": ({"success": False}, {"status": "failed", "generation_id": None}),
    "failure with an error object": (
        {"success": False, "error": {"message": "deep"}},
        {"status": "failed", "message": "deep"},
    ),
    "envelope": (
        {
            "data": {
                "id": "e1",
                "outputImageUrls": ["https://i/1.png"],
                "processingStatus": "completed",
                "creditsUsed": 2,
                "modelUsed": "seen",
            }
        },
        {"status": "completed", "generation_id": "e1", "credits_used": 2, "model": "seen"},
    ),
    "envelope of a success": (
        {"success": True, "data": {"id": "e2", "imageUrls": ["https://i/1.png"]}},
        {"status": "completed", "generation_id": "e2"},
    ),
    "envelope of a failure": (
        {"data": {"id": "e3", "processingStatus": "failed", "errorMessage": "broke"}},
        {"status": "failed", "generation_id": "e3", "message": "broke"},
    ),
    "credits missing": (SUCCESS, {"credits_used": None, "remaining_credits": None}),
    "credits of a strange kind": (
        {**SUCCESS, "creditsUsed": "one", "remainingCredits": True},
        {"credits_used": None, "remaining_credits": None},
    ),
    "credits in fractions": (
        {**SUCCESS, "creditsUsed": 0.5, "remainingCredits": 4.0},
        {"credits_used": 0.5, "remaining_credits": 4},
    ),
    "unknown fields": ({**SUCCESS, "new": {"a": [1]}, "seed": 7}, {"status": "completed"}),
    "entries that are no URLs": (
        {**SUCCESS, "imageUrls": [None, " ", " https://i/1.png ", 7]},
        {"image_urls": ("https://i/1.png",)},
    ),
    "half a character in the words": (
        {"success": False, "error": "no \ud83d image"},
        {"status": "failed", "message": "no ? image"},
    ),
    "credits without end": ({**SUCCESS, "creditsUsed": float("inf")}, {"credits_used": None}),
    "a URL that is none": (
        {**SUCCESS, "imageUrls": ["https://[bad"]},
        {"image_urls": ("https://[bad",)},
    ),
    "a list as null": (
        {"success": True, "imageUrls": None, "outputImageUrls": ["https://i/1.png"]},
        {"image_urls": ("https://i/1.png",)},
    ),
    "a warning that has images all the same": (
        {**SUCCESS, "warning": True, "message": "borderline"},
        {"status": "completed", "message": "borderline"},
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_answer_shapes(ask: Ask, shape: str) -> None:
    body, expected = SHAPES[shape]
    with Scripted(lambda _: _json(body)) as server:
        generation = ask(server.url, "generate", "a cat")
    assert {name: getattr(generation, name) for name in expected} == expected
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/files/x.png", "https://host:1/files/x.png"),
        ("files/x.png", "https://host:1/api/v1/files/x.png"),
        ("//cdn.example/x.png", "https://cdn.example/x.png"),
        ("https://cdn.example/x.png?sig=a%2Fb", "https://cdn.example/x.png?sig=a%2Fb"),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
    ],
)
def test_image_urls_become_whole(given: str, expected: str) -> None:
    answer = Answer(200, {}, json.dumps({"success": True, "imageUrls": [given]}).encode())
    read = read_generation(answer, base_url="https://host:1/api/v1", model="m", mode="sync")
    assert isinstance(read, Generation)
    assert read.image_urls == (expected,)


@pytest.mark.parametrize("style", ["absolute", "relative", "protocol-relative", "data"])
@pytest.mark.parametrize("envelope", [False, True])
def test_every_url_style_leads_to_the_picture(style: Any, envelope: bool) -> None:
    with Sandbox(url_style=style, envelope=envelope, picture_pixels=32) as sandbox:
        generation = _sync(sandbox.base_url, "generate", "a cat", key=sandbox.api_key)
        (url,) = generation.image_urls
        if style != "data":
            got = httpx.get(url, headers={"user-agent": "Mozilla/5.0"}).content
            assert got == next(iter(sandbox.images.values()))
        assert generation.credits_used == 1


BROKEN = {
    "html": b"<!DOCTYPE html><title>Oops</title>",
    "truncated": b'{"success": true, "imageU',
    "empty": b"",
    "list": b"[1]",
    "no facts": b"{}",
    "success without images": b'{"success": true, "generationId": "g7"}',
    "not utf-8": b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_answers_that_cannot_be_read_are_unknown_and_not_sent_again(ask: Ask, kind: str) -> None:
    with (
        Scripted(lambda _: Reply(BROKEN[kind])) as server,
        pytest.raises(UnknownOutcome) as caught,
    ):
        ask(server.url, "generate", "a cat", options={"request_timeout_seconds": 1})
    assert [seen.method for seen in server.seen].count("POST") == 1
    assert caught.value.status_code == 200
    named = kind == "success without images"
    assert isinstance(caught.value, StillRunning if named else AnswerNotUnderstood)
    assert caught.value.generation_id == ("g7" if named else None)


def test_still_processing_is_unknown_with_its_id(ask: Ask) -> None:
    body = {"data": {"id": "g9", "processingStatus": "processing", "outputImageUrls": None}}
    with Scripted(lambda _: _json(body)) as server, pytest.raises(StillRunning) as caught:
        ask(server.url, "generate", "a cat", options={"request_timeout_seconds": 1})
    assert caught.value.generation_id == "g9"


ERRORS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: AuthenticationFailed,
    402: CreditsUsedUp,
    403: AccessNotEnabled,
    404: BadRequest,
    413: BadRequest,
    422: BadRequest,
    307: BadRequest,
    408: UnknownOutcome,
    500: UnknownOutcome,
    502: UnknownOutcome,
    504: UnknownOutcome,
    521: UnknownOutcome,
}


@pytest.mark.parametrize("body", [b'{"error": "said so"}', b"<html><title>A proxy</title></html>", b""])
@pytest.mark.parametrize("status", ERRORS)
def test_error_table(ask: Ask, status: int, body: bytes) -> None:
    reply = Reply(body, status, {"Location": "https://elsewhere.example/"})
    with Scripted(lambda _: reply) as server, pytest.raises(ERRORS[status]) as caught:
        ask(server.url, "generate", "a cat")
    error = caught.value
    assert type(error) is ERRORS[status]
    assert len(server.seen) == 1, "a request that may be charged was sent again"
    assert error.status_code == status
    assert str(status) in str(error)
    if b"said" in body and status != 307:
        assert "said so" in str(error)
    if b"proxy" in body and status != 307:
        assert "A proxy" in str(error)


@pytest.mark.parametrize("field", ["error", "errorMessage", "message"])
def test_error_words_are_found(field: str) -> None:
    with (
        Scripted(lambda _: _json({field: "the words", "generationId": "g1"}, 500)) as server,
        pytest.raises(UnknownOutcome, match="the words") as caught,
    ):
        _sync(server.url, "generate", "a cat", options={"request_timeout_seconds": 1})
    assert caught.value.generation_id == "g1"


def test_a_503_is_waited_out_only_in_the_api_own_words(ask: Ask) -> None:
    busy = [_json({"error": "busy", "type": "server_busy"}, 503, Retry_After="0")]

    def answer(_: Seen) -> Reply:
        return busy.pop() if busy else _json(SUCCESS)

    with Scripted(answer) as server:
        assert ask(server.url, "generate", "a cat").status == "completed"
    assert len(server.seen) == 2
    with (
        Scripted(lambda _: Reply(b"<html>", 503)) as server,
        pytest.raises(UnknownOutcome),
    ):
        ask(server.url, "generate", "a cat")
    assert len(server.seen) == 1


def _soon() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "at_least"),
    [({"Retry-After": "1"}, 0.95), ({"Retry-After": "date"}, 0.8), ({}, 0)],
    ids=["seconds", "date", "absent"],
)
def test_429_is_waited_out_at_the_pace_asked_for(
    ask: Ask, headers: dict[str, str], at_least: float
) -> None:
    moments: list[float] = []

    def answer(_: Seen) -> Reply:
        moments.append(time.monotonic())
        if len(moments) > 1:
            return _json(SUCCESS)
        sent = {k: _soon() if v == "date" else v for k, v in headers.items()}
        return Reply(b'{"error": "x", "type": "concurrency_limit", "limit": 1}', 429, sent)

    with Scripted(answer) as server:
        assert ask(server.url, "generate", "a cat").status == "completed"
    assert len(moments) == 2
    assert moments[1] - moments[0] >= at_least


@pytest.mark.parametrize("body", [b'{"limit": 3, "active": 3}', b"<html>slow down</html>"])
def test_429_says_what_it_knows_when_the_budget_is_spent(ask: Ask, body: bytes) -> None:
    reply = Reply(body, 429, {"Retry-After": "60", "X-RateLimit-Limit": "3", "X-RateLimit-Active": "3"})
    with Scripted(lambda _: reply) as server, pytest.raises(ConcurrencyLimitReached) as caught:
        ask(server.url, "generate", "a cat", options={"retry_for_seconds": 5})
    assert (caught.value.limit, caught.value.active) == (3, 3)
    assert caught.value.retry_after_seconds == 60
    assert len(server.seen) == 1


def test_busy_is_tried_again_until_the_budget_is_spent(ask: Ask) -> None:
    quick = Timings(first_delay=0.01, longest_delay=0.05)
    with (
        Scripted(lambda _: _json({"type": "server_busy"}, 503)) as server,
        pytest.raises(ServerBusy),
    ):
        ask(server.url, "generate", "a cat", options={"retry_for_seconds": 0.5, "timings": quick})
    assert len(server.seen) > 3


def test_connection_refused_is_tried_again(ask: Ask) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    with Sandbox(port, picture_pixels=32) as sandbox:
        pass
    with pytest.raises(NeverDelivered, match="was not reached"):
        ask(f"http://127.0.0.1:{port}", "generate", "x", options={"retry_for_seconds": 0.1})
    late = threading.Timer(0.3, lambda: servers.append(Sandbox(port, picture_pixels=32).start()))
    servers: list[Sandbox] = []
    late.start()
    try:
        assert ask(sandbox.base_url, "generate", "x", key=sandbox.api_key).status == "completed"
        assert servers[0].account.posts == 1
    finally:
        late.join()
        servers[0].stop()


def test_a_host_that_has_no_address_was_never_reached(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with pytest.raises(NeverDelivered):
        ask("https://nowhere.invalid", "generate", "x", options={"retry_for_seconds": 0})


def test_a_tls_failure_was_never_delivered(ask: Ask) -> None:
    with Scripted(lambda _: _json(SUCCESS)) as server, pytest.raises(NeverDelivered):
        ask(server.url.replace("http", "https"), "generate", "x", options={"retry_for_seconds": 0})
    assert not server.seen


LOST = {
    "reset": Reply(reset=True),
    "cut in the body": Reply(b'{"success": true', length=400),
    "stall past the time-out": Reply(b"{}", stall_seconds=1.5),
    "a body that drips past the time-out": Reply(b" " * 100, drip_seconds=0.05),
}


@pytest.mark.parametrize("kind", LOST)
def test_lost_answers_are_unknown_and_not_sent_again(ask: Ask, kind: str) -> None:
    with Scripted(lambda _: LOST[kind]) as server, pytest.raises(UnknownOutcome) as caught:
        ask(server.url, "generate", "x", options={"request_timeout_seconds": 0.5})
    assert type(caught.value) is UnknownOutcome
    time.sleep(0.2)
    assert len(server.seen) == 1


def test_a_reset_before_the_request_is_read_is_unknown_too(ask: Ask, sandbox: Sandbox) -> None:
    sandbox.faults.queue("reset_before")
    with pytest.raises(UnknownOutcome):
        ask(sandbox.base_url, "generate", "x", key=sandbox.api_key)
    assert (sandbox.account.posts, sandbox.account.charged) == (1, 0)


def test_an_answer_without_end_is_given_up(ask: Ask) -> None:
    with (
        Scripted(lambda _: Reply(b" " * 5000)) as server,
        pytest.raises(UnknownOutcome, match="larger than 1000 bytes"),
    ):
        ask(server.url, "generate", "x", options={"max_answer_bytes": 1000})


def test_a_redirect_is_not_followed(ask: Ask) -> None:
    with Scripted(lambda _: _json(SUCCESS)) as other:
        reply = Reply(b"", 301, {"Location": other.url})
        with Scripted(lambda _: reply) as server, pytest.raises(BadRequest, match="base URL"):
            ask(server.url, "generate", "x")
    assert not other.seen, "the key may go nowhere else"


def test_models(ask: Ask, sandbox: Sandbox) -> None:
    models = {model.name: model for model in ask(sandbox.base_url, "models")}
    assert models["nano-banana"].credits_cost == 1
    assert not models["seedream-5.0-2k"].supports_image_input
    method, path, headers = sandbox.requests[-1]
    assert (method, path) == ("GET", "/api/v1/models")
    assert "authorization" not in headers, "GET /models needs no key"


def test_one_odd_model_hides_no_other(ask: Ask) -> None:
    rows = [{"name": "good", "creditsCost": None}, {"displayName": "nameless"}, "text"]
    with Scripted(lambda _: _json({"data": rows})) as server:
        (model,) = ask(server.url, "models")
    assert (model.name, model.credits_cost) == ("good", None)


def test_credits(ask: Ask, sandbox: Sandbox) -> None:
    assert ask(sandbox.base_url, "credits", key=sandbox.api_key) == 100
    with pytest.raises(AuthenticationFailed, match="Nano Banana Credentials block"):
        ask(sandbox.base_url, "credits", key="nb_wrong")


@pytest.mark.parametrize("method", ["models", "credits"])
def test_look_ups_are_tried_again_and_then_say_why(ask: Ask, method: str) -> None:
    replies = [Reply(b"{}", 502), Reply(reset=True), Reply(b"<html>"), _json({})]
    with Scripted(lambda _: replies.pop(0) if replies else Reply(b"", 500)) as server:
        quick = Timings(retry_look_ups_for=0.5, first_delay=0.01)
        with pytest.raises(UnknownOutcome):
            ask(server.url, method, options={"timings": quick})
    assert len(server.seen) > 4


def test_each_request_has_its_own_connection(sandbox: Sandbox) -> None:
    with NanoBananaClient(sandbox.api_key, sandbox.base_url) as client:
        pool = client._transport._pool  # type: ignore[attr-defined]
        for _ in range(2):
            client.generate("x")
            assert pool.connections == []


def test_a_transport_can_be_injected() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={**SUCCESS, **BOOKS}))
    with NanoBananaClient(KEY, "https://api.example/v1", transport=transport) as client:
        assert client.generate("x") == Generation(
            status="completed",
            generation_id="clxx1",
            image_urls=("https://i/1.png",),
            credits_used=1,
            remaining_credits=99,
        )


@pytest.mark.parametrize("status", [200, 301, 400, 401, 500])
def test_the_key_is_in_no_error(ask: Ask, status: int) -> None:
    def answer(seen: Seen) -> Reply:
        said = seen.headers["authorization"]
        return Reply(json.dumps({"error": said, "x": said}).encode(), status, {"Location": said})

    with Scripted(answer) as server, pytest.raises(ApiError) as caught:
        ask(server.url, "generate", "x")
    told = f"{caught.value} {caught.value!r} {caught.value.__dict__} {caught.value.__context__!r}"
    assert "secret" not in told


def test_the_key_is_in_no_generation(ask: Ask) -> None:
    def answer(seen: Seen) -> Reply:
        said = seen.headers["authorization"]
        return _json({"success": False, "error": "x" * 190 + said, "generationId": said})

    with Scripted(answer) as server:
        generation = ask(server.url, "generate", "x")
    assert "secret" not in repr(generation)
    assert "[key]" in str(generation.message)


def test_the_key_is_in_no_repr() -> None:
    with NanoBananaClient(KEY) as client:
        assert "secret" not in repr(client)
        assert client._base_url in repr(client)


def test_errors_survive_pickling() -> None:
    error = ConcurrencyLimitReached("x", limit=2, active=1, status_code=429, retry_after_seconds=3.0)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ConcurrencyLimitReached
    assert (again.__dict__, str(again)) == (error.__dict__, "x")


def test_what_may_be_sent_again_is_never_what_may_be_charged() -> None:
    assert not issubclass(UnknownOutcome, NotCharged)
    assert not issubclass(NotCharged, UnknownOutcome)
    assert {e for e in vars(errors).values() if isinstance(e, type)} >= {NotCharged, UnknownOutcome}


NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3),
        (" 2.5 ", 2.5),
        ("Sun, 22 Nov 2026 12:00:07 GMT", 7),
        ("Sun, 22 Nov 2026 12:00:07 -0000", 7),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0),
        ("-3", None),
        ("soon", None),
        ("9" * 400, None),
        ("", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after_seconds({"retry-after": value}, NOW) == seconds


def test_a_date_is_read_by_the_servers_own_clock() -> None:
    headers = {
        "retry-after": "Sun, 22 Nov 2026 12:00:07 GMT",
        "date": "Sun, 22 Nov 2026 12:00:05 GMT",
    }
    assert retry_after_seconds(headers) == 2


def test_no_wait_at_all_is_no_hot_loop() -> None:
    backoff = Backoff(60, first=0.5)
    assert min(backoff.delay_seconds(ServerBusy("x", retry_after_seconds=0)) for _ in range(5)) >= 0.5


def test_retry_after_absent() -> None:
    assert retry_after_seconds({}) is None
