"""Errors and messages say nothing secret of what they quote, and hold nothing that a terminal obeys."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from clients import call_sync
from networks import fetch_bytes
from raw_server import RawServer
from servers import Reply, Scripted

from prefect_nanobanana import (
    Generation,
    ImageNotCopied,
    InvalidInput,
    LedgerError,
    NanoBananaCredentials,
    NanoBananaError,
    RunFailed,
)
from prefect_nanobanana._common.text import without_signatures
from prefect_nanobanana.batch._sources import read_list
from prefect_nanobanana.images import Fetcher
from prefect_nanobanana.images._addresses import Addresses

Call = Callable[..., Any]
SIGNED = "https://b.example/cat.png?X-Amz-Date=1&X-Amz-Signature=hush"
LONG = f"https://b.example/cat.png?X-Amz-Credential={'a' * 300}&X-Amz-Signature=hush"
WORDS = {
    "signed": f"cannot fetch {SIGNED}, sorry",
    "long": f"cannot fetch {LONG}",
    "very long": f"cannot fetch {LONG.replace('a' * 300, 'a' * 20_000)}",
    "user": "cannot fetch https://me:hush@b.example/cat.png",
    "another scheme": "no proxy at socks5://me:hush@b.example:1080",
    "path alone": "GET /cat.png?X-Amz-Signature=hush",
    "inside of another": "https://i.example/?u=https%3A%2F%2Fb.example%2F%3FX-Amz-Signature%3Dhush&w=9",
    "escape": "\x1b[31mred\x1b]0;hush\x07",
    "direction": "a\u202ehush",
}


@pytest.mark.parametrize("case", WORDS)
@pytest.mark.parametrize(
    ("status", "form"),
    [
        (400, {"error": "{}"}),
        (401, {"message": "{}"}),
        (403, {"error": {"message": "{}"}}),
        (429, {"msg": "{}", "type": "daily_quota"}),
        (500, {"error": "{}"}),
        (200, {"success": False, "error": "{}", "creditsUsed": 1}),
        (200, {"success": False, "warning": True, "message": "{}", "creditsUsed": 1}),
        (200, {"unknown": "{}"}),
        (200, "{}"),
    ],
)
def test_what_the_api_says(case: str, status: int, form: Any) -> None:
    secret = {"escape": "\x1b", "direction": "\u202e"}.get(case, "hush")
    body = json.dumps(form).replace("{}", json.dumps(WORDS[case])[1:-1])
    if status == 200:  # as PHP and Rails write it
        body = body.replace("/", "\\/").replace("&", "\\u0026")
    with Scripted(lambda _: Reply(body.encode(), status)) as server:
        try:
            found = call_sync(server.url, "generate", "x", options={"retry_for_seconds": 0})
        except NanoBananaError as error:
            assert secret not in f"{error} {error!r}"
        else:
            assert isinstance(found, Generation)
            assert secret not in str(found.message)


@pytest.mark.parametrize("location", ["https://me:hush@b.example/", "/login#access_token=hush", SIGNED])
def test_where_the_api_redirects_to(call: Call, location: str) -> None:
    with Scripted(lambda _: Reply(b"", 302, {"Location": location})) as server:
        with pytest.raises(NanoBananaError, match="redirects") as caught:
            call(server.url, "generate", "x")
    assert "hush" not in str(caught.value)


def test_an_id_that_is_none(call: Call) -> None:
    body = {"data": {"id": "\x1b[31mred", "processingStatus": "processing"}}
    with Scripted(lambda _: Reply(json.dumps(body).encode())) as server:
        with pytest.raises(NanoBananaError) as caught:
            call(server.url, "generate", "x", options={"request_timeout_seconds": 0.5})
    assert "\x1b" not in f"{caught.value} {caught.value.__dict__}"


@pytest.mark.parametrize("case", WORDS)
@pytest.mark.parametrize("kind", [InvalidInput, ImageNotCopied, LedgerError, RunFailed])
def test_every_error_of_ours(kind: type[NanoBananaError], case: str) -> None:
    error = kind(WORDS[case])
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert "hush" not in str(each) or case in ("escape", "direction")
        assert str(each).isprintable()


@pytest.mark.parametrize(
    "said",
    [b"\x1b[31mnonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\x1b[31m\r\n"],
)
def test_what_an_image_host_says(said: bytes) -> None:
    with RawServer(lambda connection: connection.sendall(said)) as server:
        with pytest.raises(ImageNotCopied) as caught:
            fetch_bytes(f"{server.url}/x.png?X-Amz-Signature=hush", Addresses(["127.0.0.1"]))
    assert str(caught.value).isprintable()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        '"https://me:hush@b.example/l.txt?X-Amz-Signature=hush"',
        "https:/b.example/l.txt?X-Amz-Signature=hush",
        "https:\\\\me:hush@b.example\\l.txt",
        "https//b.example/l.txt?sig=hush",
        "url=https://me:hush@b.example/l.txt",
        "me:hush@b.example/l.txt",
    ],
)
def test_a_mistyped_address_of_a_list(source: str) -> None:
    with Fetcher() as fetcher, pytest.raises(InvalidInput, match="cannot be read") as caught:
        read_list(source, lambda *_: b"", fetcher)
    assert "hush" not in str(caught.value)


def test_blanks_around_the_address_of_a_list() -> None:
    with Scripted(lambda _: Reply(b"a cat")) as server, Fetcher(["127.0.0.1"]) as fetcher:
        assert read_list(f" {server.url}/l.txt\n", lambda *_: b"", fetcher) == ("l.txt", b"a cat")


@pytest.mark.parametrize(
    "host", ["http://me:hush@b.example", "me:hush@b.example", "http://b.example/x?X-Amz-Signature=hush"]
)
def test_mistyped_image_hosts(host: str) -> None:
    for make in (
        lambda: NanoBananaCredentials(api_key="nb_x", image_hosts=[host]),
        lambda: Fetcher([host]),
    ):
        with pytest.raises(ValueError, match="is not a host") as caught:
            make()
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://b.example/cat.png?v=2, please", "see https://b.example/cat.png?v=2, please"),
        (f"<{SIGNED}>", "<https://b.example/cat.png>"),
        ("https:\\/\\/b.example\\/cat.png?sig=hush", "https://b.example/cat.png"),
        ("postgresql://me:hush@db/x", "postgresql://db/x"),
        ("what?sign=yes&signatures=2: a=b", "what?sign=yes&signatures=2: a=b"),
        ("3:4//5 ratio://", "3:4//5 ratio://"),
    ],
)
def test_what_is_left_of_a_text(text: str, shown: str) -> None:
    assert without_signatures(text) == shown
