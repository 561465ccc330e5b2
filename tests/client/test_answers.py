"""Answers in all the forms that were seen, and some that were not: what was paid is read, or kept."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from PIL import Image
from servers import Reply, Scripted, Seen

from prefect_nanobanana import (
    AnswerNotUnderstood,
    Generation,
    Outcome,
    StillRunning,
    Submission,
    UnknownOutcome,
)
from prefect_nanobanana.models import ImagePrompt

Call = Callable[..., Any]
HOST = "https://i.example/"


def _picture(kind: str) -> bytes:
    body = io.BytesIO()
    Image.effect_noise((24, 24), 50).convert("RGB").save(body, kind)
    return body.getvalue()


PNG = base64.b64encode(_picture("PNG")).decode()
JPEG = base64.b64encode(_picture("JPEG")).decode()
WEBP = base64.urlsafe_b64encode(_picture("WEBP")).decode().rstrip("=")
JXL = base64.b64encode(b"\xff\x0a" + bytes(97)).decode()
TIFF = base64.b64encode(b"II*\0" + bytes(95)).decode()


def _ask(call: Call, body: Any, status: int = 200, **more: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with Scripted(lambda _: Reply(content, status)) as server:
        return call(server.url, "generate", "x", options={"request_timeout_seconds": 1}, **more)


@pytest.mark.parametrize(
    ("facts", "urls"),
    [
        ({"outputImageUrl": HOST + "1.png"}, [HOST + "1.png"]),
        ({"imageUrl": HOST + "1.png"}, [HOST + "1.png"]),
        ({"output": HOST + "1.png"}, [HOST + "1.png"]),
        ({"output": [HOST + "1.png", HOST + "2.png"]}, [HOST + "1.png", HOST + "2.png"]),
        ({"output": {"imageUrls": [HOST + "1.png"]}}, [HOST + "1.png"]),
        ({"imageUrls": HOST + "1.png"}, [HOST + "1.png"]),
        ({"imageUrls": f"{HOST}1.png\n{HOST}2.png"}, [HOST + "1.png", HOST + "2.png"]),
        ({"imageUrls": f"{HOST}1.png,{HOST}2.png"}, [HOST + "1.png", HOST + "2.png"]),
        ({"imageUrls": json.dumps([HOST + "1.png"])}, [HOST + "1.png"]),
        ({"imageUrls": [{"url": HOST + "1.png"}]}, [HOST + "1.png"]),
        ({"images": [{"b64_json": PNG}]}, [f"data:image/png;base64,{PNG}"]),
        ({"imageUrls": [PNG]}, [f"data:image/png;base64,{PNG}"]),
        ({"imageUrls": [JPEG]}, [f"data:image/jpeg;base64,{JPEG}"]),
        ({"output": WEBP}, [f"data:image/webp;base64,{WEBP}"]),
        ({"imageUrls": [f" DATA:image/png;base64,{PNG}\n"]}, [f"DATA:image/png;base64,{PNG}"]),
        ({"data": {"outputImageUrl": HOST + "1.png"}}, [HOST + "1.png"]),
        ({"imageUrls": [HOST + "1.png?a=%2f;b"]}, [HOST + "1.png?a=%2f;b"]),
        # A blank alone may belong to an address.
        ({"outputImageUrl": HOST + "my cat (1).png?sig=a"}, [HOST + "my cat (1).png?sig=a"]),
        ({"imageUrls": f"{HOST}a b.png, {HOST}2.png"}, [HOST + "a b.png", HOST + "2.png"]),
        ({"imageUrls": f"{HOST}a b.png \n{HOST}2.png"}, [HOST + "a b.png", HOST + "2.png"]),
        ({"output": f"Here it is: {HOST}1.png enjoy"}, [HOST + "1.png"]),
        ({"output": f'"A cat": {HOST}1.png'}, [HOST + "1.png"]),
        # JSON in a text.
        ({"imageUrls": json.dumps({"url": HOST + "1.png"})}, [HOST + "1.png"]),
        ({"imageUrls": json.dumps(HOST + "1.png")}, [HOST + "1.png"]),
        ({"imageUrls": [{"image": {"url": HOST + "1.png"}}]}, [HOST + "1.png"]),
        # Pictures that are written out.
        ({"images": [{"data": PNG}]}, [f"data:image/png;base64,{PNG}"]),
        ({"outputImageUrl": f"image/png;base64,{PNG}"}, [f"data:image/png;base64,{PNG}"]),
        ({"imageUrls": [f"; BASE64 ,{PNG}"]}, [f"data:;base64,{PNG}"]),
        ({"imageUrls": f"base64,{PNG[:40]}\n{PNG[40:]}"}, [f"data:;base64,{PNG[:40]}\n{PNG[40:]}"]),
        ({"imageUrls": ",".join([f"data:;base64,{PNG}"] * 2)}, [f"data:;base64,{PNG}"] * 2),
        ({"imageUrls": [JXL]}, [f"data:image/jxl;base64,{JXL}"]),
        ({"outputImageUrl": TIFF * 200}, [f"data:image/tiff;base64,{TIFF * 200}"]),
    ],
)
@pytest.mark.parametrize("status", [200, 201, 203])
def test_where_images_are(call: Call, facts: dict[str, Any], urls: list[str], status: int) -> None:
    generation = _ask(call, {"success": True, "creditsUsed": 1, **facts}, status, quantity=4)
    assert (generation.status, list(generation.image_urls)) == ("completed", urls)


@pytest.mark.parametrize(
    ("facts", "status", "urls"),
    [
        ({"success": True, "warning": "false", "imageUrls": [HOST]}, "completed", 1),
        ({"success": False, "warning": "false", "error": "broke"}, "failed", 0),
        ({"success": "false", "warning": "true", "message": "no"}, "warning", 0),
        ({"success": False, "warning": True, "imageUrls": [HOST + "1.png"]}, "warning", 1),
        ({"success": False, "warning": "Content safety check failed"}, "warning", 0),
        ({"success": 0, "error": "broke"}, "failed", 0),
        ({"processingStatus": "FAILED", "errorMessage": "broke"}, "failed", 0),
        ({"processingStatus": "Completed", "imageUrls": [HOST]}, "completed", 1),
        ({"status": "error", "msg": "broke"}, "failed", 0),
    ],
)
def test_flags_and_words_in_any_form(call: Call, facts: dict[str, Any], status: str, urls: int) -> None:
    generation = _ask(call, facts)
    assert (generation.status, len(generation.image_urls)) == (status, urls)


@pytest.mark.parametrize("word", ["FAILED", "Failed", "failure", "ERROR"])
def test_a_failure_in_any_words_ends_the_polling(call: Call, word: str) -> None:
    body = {"data": {"id": "g", "processingStatus": word, "errorMessage": "broke"}}
    with Scripted(lambda _: Reply(json.dumps(body).encode())) as server:
        found = call(server.url, "wait", Submission(generation_id="g"))
    assert (found.status, found.message, len(server.seen)) == ("failed", "broke", 1)


@pytest.mark.parametrize(
    ("told", "cost"),
    [
        ("3", 3),
        (" 3.0 ", 3),
        (0.1, Decimal("0.1")),
        ("0.25", Decimal("0.25")),
        (0.1 + 0.2, Decimal("0.3")),
        (2.0, 2),
        (-1, None),
        ("", None),
        ("three", None),
        (True, None),
        ([], None),
        ("1e99999999", None),
        ("9" * 4000, None),
    ],
)
def test_amounts_are_read_exactly_or_not_at_all(call: Call, told: Any, cost: Any) -> None:
    generation = _ask(call, {"success": True, "imageUrls": [HOST], "creditsUsed": told})
    assert generation.credits_used == cost
    assert type(generation.credits_used) is type(cost)


@pytest.mark.parametrize(
    ("body", "balance"),
    [
        ({"data": {"credits": "100"}}, 100),
        ({"data": {"credits": -2.5}}, Decimal("-2.5")),
        ({"credits": "-7"}, -7),
        ({"data": "12"}, 12),
        ({"data": {"credits": {"balance": 3}}}, 3),
    ],
)
def test_balances_in_any_form(call: Call, body: Any, balance: Any) -> None:
    with Scripted(lambda _: Reply(json.dumps(body).encode())) as server:
        assert call(server.url, "credits") == balance


def test_fractions_are_summed_without_binary_ones_and_stay_numbers_in_json() -> None:
    outcome = Outcome(position=1, prompt=ImagePrompt(prompt="x"), status="stored", credits_used=0.1)
    assert sum(outcome.credits_used for _ in range(3)) == Decimal("0.3")
    assert json.loads(outcome.model_dump_json())["credits_used"] == 0.1
    assert Outcome.model_validate_json(outcome.model_dump_json()) == outcome
    whole = outcome.model_copy(update={"credits_used": 2})
    assert '"credits_used":2,' in whole.model_dump_json()


def test_models_with_texts_for_numbers(call: Call) -> None:
    rows = [
        {"name": "a", "creditsCost": "3", "requiresPro": "false"},
        {"name": "b", "creditsCost": "free", "supportsImageInput": "no", "requiresPro": 1},
        {"name": "c", "creditsCost": -1},
    ]
    with Scripted(lambda _: Reply(json.dumps({"data": rows}).encode())) as server:
        a, b, c = call(server.url, "models")
    assert (a.credits_cost, a.requires_pro) == (3, False)
    assert (b.credits_cost, b.supports_image_input, b.requires_pro) == (None, False, True)
    assert c.credits_cost == -1, "a price that is none is for the ceiling to refuse"


@pytest.mark.parametrize(("named", "quantity", "kept"), [(60, 1, 5), (200_000, 1, 5), (9, 4, 8)])
def test_more_images_than_were_asked_for(call: Call, named: int, quantity: int, kept: int) -> None:
    urls = [f"{HOST}{n}.png" for n in range(named)]
    generation = _ask(call, {"success": True, "imageUrls": urls}, quantity=quantity)
    assert generation.image_urls == tuple(urls[:kept])
    assert f"named {named} images for {quantity}: the first {kept} are kept" in generation.message


def test_a_sync_answer_that_is_a_submission_is_polled_and_keeps_its_cost(call: Call) -> None:
    def answer(seen: Seen) -> Reply:
        body: dict[str, Any] = {"success": True, "async": True, "generationId": "g", "creditsUsed": 2}
        if seen.method == "GET":
            body = {"data": {"processingStatus": "COMPLETED", "outputImageUrl": "/x.png"}}
        return Reply(json.dumps(body).encode())

    with Scripted(answer) as server:
        generation = call(server.url, "generate", "x")
        assert (generation.image_urls, generation.credits_used) == ((server.url + "/x.png",), 2)
    assert [seen.method for seen in server.seen] == ["POST", "GET"]


UNREADABLE = {
    "a field of another name": b'{"success": true, "picture_link": "https://i.example/1.png?sig=abc"}',
    "cut": b'{"success": true, "imageUrls": ["https://i.example/1.png?sig=abc"',
    "escaped, in text": b"done: https:\\/\\/i.example\\/1.png?sig=abc",
    "far behind": b'{"a": "' + b"x" * 50_000 + b'", "picture": "https://i.example/1.png?sig=abc"}',
    "too deep": b'{"link": "https://i.example/1.png?sig=abc", "a": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_keeps_its_address(call: Call, kind: str) -> None:
    with pytest.raises(AnswerNotUnderstood) as caught:
        _ask(call, UNREADABLE[kind])
    assert "https://i.example/1.png?sig=abc" in str(caught.value.body_excerpt)
    assert len(str(caught.value.body_excerpt)) <= 2000
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("status", [500, 502])
def test_so_does_a_server_that_gave_up(call: Call, status: int) -> None:
    with pytest.raises(UnknownOutcome) as caught:
        _ask(call, {"error": "oops", "url": HOST + "1.png"}, status)
    assert HOST + "1.png" in str(caught.value.body_excerpt)


def test_so_does_a_connection_that_broke(call: Call) -> None:
    body = b'{"success": true, "imageUrls": ["https://i.example/1.png"'
    with Scripted(lambda _: Reply(body, length=4000)) as server:
        with pytest.raises(UnknownOutcome) as caught:
            call(server.url, "generate", "x")
    assert "https://i.example/1.png" in str(caught.value.body_excerpt)


def test_so_does_a_generation_that_was_not_seen_to_end(call: Call) -> None:
    body = {"success": True, "generationId": "g", "link": HOST + "1.png"}
    with pytest.raises(StillRunning) as caught:
        _ask(call, body)
    assert HOST + "1.png" in str(caught.value.body_excerpt)
    assert "in 0 s" not in str(caught.value)
    assert "within" not in str(caught.value)


def test_the_key_is_not_kept(call: Call) -> None:
    def answer(seen: Seen) -> Reply:
        return Reply(json.dumps({"x": seen.headers["authorization"]}).encode())

    with Scripted(answer) as server, pytest.raises(AnswerNotUnderstood) as caught:
        call(server.url, "generate", "x")
    assert "[key]" in str(caught.value.body_excerpt)
    assert "secret" not in str(caught.value.__dict__)


def test_long_and_wild_words_are_cut_to_one_line(call: Call) -> None:
    wild = "\x1b[31m" + "a " * 50_000 + "\x07 the end"
    generation = _ask(call, {"success": False, "error": wild})
    assert isinstance(generation, Generation)
    message = str(generation.message)
    assert len(message) <= 200
    assert message.isprintable()
    assert message.endswith("the end")


@pytest.mark.parametrize("encoding", ["", "aws-chunked", "utf-8", "none", "identity", "gzip", "deflate"])
def test_an_encoding_that_is_none_changes_nothing(call: Call, encoding: str) -> None:
    body = json.dumps({"success": True, "imageUrls": [HOST]}).encode()
    with Scripted(lambda _: Reply(body, 200, {"Content-Encoding": encoding})) as server:
        assert call(server.url, "generate", "x").image_urls == (HOST,)


@pytest.mark.parametrize(("encoding", "layers"), [("gzip", 1), ("gzip, gzip", 2)])
def test_packed_answers_are_read(call: Call, encoding: str, layers: int) -> None:
    body = json.dumps({"success": True, "imageUrls": [HOST]}).encode()
    for _ in range(layers):
        body = gzip.compress(body)
    with Scripted(lambda _: Reply(body, 200, {"Content-Encoding": encoding})) as server:
        assert call(server.url, "generate", "x").image_urls == (HOST,)
