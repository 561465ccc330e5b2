"""Whatever an API answers, only our own errors leave the client, and nothing is sent twice for it."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from clients import call_async, call_sync
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_server import RawServer

from prefect_nanobanana import Generation, NanoBananaError, NotCharged
from prefect_nanobanana.client._timings import Timings

FIELDS = [
    *("success", "warning", "async", "generationId", "id", "imageUrls", "outputImageUrls", "output"),
    *("outputImageUrl", "creditsUsed", "remainingCredits", "credits", "data", "processingStatus"),
    *("status", "error", "errorMessage", "message", "msg", "type", "limit", "active", "modelUsed"),
    *("name", "creditsCost", "requiresPro", "models", "progress", "url"),
]
WORDS = [
    "completed",
    "FAILED",
    "processing",
    "complete",
    "error",
    "false",
    "3",
    "https://e/1.png",
    "data:,",
]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=20),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8)
DEEP = st.builds(
    lambda depth, key: f'{{"{key}": ' * depth + "1" + "}" * depth,
    st.integers(1, 20_000),
    st.sampled_from(FIELDS),
)
LONG = st.builds(
    lambda key, digits: f'{{"{key}": {"9" * digits}}}', st.sampled_from(FIELDS), st.integers(1, 6000)
)
JSON = st.one_of(OBJECTS.map(json.dumps), VALUES.map(json.dumps), DEEP, LONG)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["status", "complete", "error", "COMPLETE", "x"]), OBJECTS), max_size=4
).map(lambda events: "".join(f"data: {json.dumps({**facts, 'type': t})}\n\n" for t, facts in events))
BODIES = st.one_of(
    JSON.map(lambda text: text.encode("utf-8", "surrogatepass")),
    JSON.map(lambda text: text.encode("utf-16", "surrogatepass")),
    JSON.map(lambda text: text.encode("utf-8", "surrogatepass")[: len(text) // 2]),
    EVENTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=200),
    st.sampled_from([b"", b"<!DOCTYPE html><title>x</title>", b"[" * 50_000, b"\xef\xbb\xbf{}"]),
)
PACKED = st.sampled_from(["", "gzip", "deflate", "gzip, gzip", "br", "aws-chunked", "\xff", "gzip, x"])
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("Retry-After", "Location", "Content-Type", "Date", "X-RateLimit-Limit", "Set-Cookie"),
                *("X-A", "Transfer-Encoding", "Connection", "Content-Length"),
            ]
        ),
        st.one_of(
            st.sampled_from(
                [
                    *("1", "-1", "9" * 5000, "Sun, 22 Nov 2026 12:00:07 +9999", "text/event-stream"),
                    *(
                        "http://[x",
                        "http://\xff/",
                        "chunked",
                        "close",
                        "a=b; Expires=x",
                        "application/json",
                    ),
                ]
            ),
            st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=10),
        ),
    ),
    max_size=4,
)
STATUSES = st.sampled_from(
    [200, 200, 200, 201, 203, 204, 301, 400, 402, 403, 429, 500, 503, 511, 600, 99]
)


class _Player:
    """A server that says what it was told to say next."""

    def __init__(self) -> None:
        self.reply = b""
        self.lock = threading.Lock()

    def say(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(self.reply)
            connection.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def player() -> Iterator[tuple[_Player, RawServer]]:
    playing = _Player()
    with RawServer(playing.say) as server:
        yield playing, server


def _reply(status: int, headers: list[tuple[str, str]], packed: str, body: bytes) -> bytes:
    for name in packed.split(", "):
        if name == "gzip":
            body = gzip.compress(body)
        elif name == "deflate":
            body = zlib.compress(body)
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers)]
    if packed:
        lines.append(f"Content-Encoding: {packed}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    status=STATUSES,
    headers=HEADERS,
    packed=PACKED,
    body=BODIES,
    mode=st.sampled_from(["sync", "async", "stream"]),
    method=st.sampled_from(["generate", "generate", "credits", "models"]),
    call=st.sampled_from([call_sync, call_async]),
)
def test_nothing_but_our_own_errors_leaves_the_client(
    player: tuple[_Player, RawServer],
    status: int,
    headers: list[tuple[str, str]],
    packed: str,
    body: bytes,
    mode: str,
    method: str,
    call: Any,
) -> None:
    playing, server = player
    playing.reply = _reply(status, headers, packed, body)
    options = {
        "request_timeout_seconds": 0.2,
        "retry_for_seconds": 0,
        "timings": Timings(
            first_poll=0.0, poll_every=0.01, close_poll=0.01, retry_look_ups_for=0, settle_for=0
        ),
    }
    before = len(server.requests)
    try:
        found = call(
            server.url, method, *(["x"] if method == "generate" else []), options=options,
            **({"mode": mode} if method == "generate" else {}),
        )  # fmt: skip
    except NanoBananaError as error:
        assert len(str(error)) < 900
        assert "secret" not in str(error)
        if status == 429 and isinstance(error, NotCharged):
            assert error.status_code in (429, None)
    else:
        if method == "generate":
            assert isinstance(found, Generation)
            assert Generation.model_validate_json(found.model_dump_json()) == found
            assert len(found.image_urls) <= 5
    posts = [request for request in server.requests[before:] if request.startswith(b"POST")]
    assert len(posts) == (method == "generate"), "a request that may be charged was sent again"
