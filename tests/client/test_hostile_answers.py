"""Answers that are packed oddly, quote the key, list too much, or never come through a proxy."""

from __future__ import annotations

import gzip
import json
import socket
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clients import KEY
from raw_server import RawServer
from servers import Reply, Scripted

from prefect_nanobanana import (
    AccessNotEnabled,
    AnswerNotUnderstood,
    InvalidInput,
    NanoBananaError,
    NeverDelivered,
)
from prefect_nanobanana.client import NanoBananaClient
from prefect_nanobanana.client._timings import Timings

Call = Callable[..., Any]
URL = "https://i.example/1.png"
BODY = json.dumps({"success": True, "imageUrls": [URL], "creditsUsed": 1}).encode()
HALF = len(BODY) // 2
ONCE = {"retry_for_seconds": 0, "timings": Timings(retry_look_ups_for=0, connect=0.4)}

PACKED = {
    "two members": (gzip.compress(BODY[:HALF]) + gzip.compress(BODY[HALF:]), "gzip"),
    "a member per byte": (b"".join(gzip.compress(BODY[n : n + 1]) for n in range(len(BODY))), "gzip"),
    "members with nothing in them": (gzip.compress(b"") * 50 + gzip.compress(BODY), "gzip"),
    "zeros behind the end": (gzip.compress(BODY) + b"\0" * 20, "gzip"),
    "named twice, packed once": (gzip.compress(BODY), "gzip, gzip"),
    "named by another's name": (zlib.compress(BODY), "gzip"),
    "three layers": (gzip.compress(zlib.compress(gzip.compress(BODY))), "gzip, deflate, gzip"),
    "not packed": (BODY, "gzip"),
    "not packed, blanks first": (b" \n" + BODY, "deflate, gzip"),
}


@pytest.mark.parametrize("pieces", [1, 65536])
@pytest.mark.parametrize("case", PACKED)
def test_odd_packing_loses_nothing(call: Call, case: str, pieces: int) -> None:
    body, encoding = PACKED[case]

    def say(connection: socket.socket) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head.encode())
        for start in range(0, len(body), pieces):
            connection.sendall(body[start : start + pieces])
            if start < 5:
                time.sleep(0.02)
        _stall(connection)

    with RawServer(say) as server:
        assert call(server.url, "generate", "x").image_urls == (URL,)


def test_members_without_end_are_left(call: Call) -> None:
    began = time.process_time()
    reply = Reply(gzip.compress(b"") * 200_000, 200, {"Content-Encoding": "gzip"})
    with Scripted(lambda _: reply) as server, pytest.raises(AnswerNotUnderstood):
        call(server.url, "generate", "x")
    assert time.process_time() - began < 2


def _escaped(body: str) -> bytes:
    return body.replace(KEY, "".join(f"\\u{ord(c):04X}" for c in KEY)).encode()


@pytest.mark.parametrize(
    "write",
    [
        str.encode,
        lambda body: body.replace("_", "\\u005f").encode(),
        _escaped,
        lambda body: body.replace(KEY, KEY.replace("-", "\\u002d")).encode(),
        lambda body: body.encode("utf-16"),
        lambda body: body.encode("utf-16-be"),
        lambda body: body.encode("utf-32"),
        lambda body: _escaped(body).decode().encode("utf-16-le"),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_the_key_is_not_told_however_it_is_written(
    call: Call, write: Callable[[str], bytes], status: int
) -> None:
    body = write(json.dumps({"error": f"bad key {KEY}", "x": f"https://i.example/{KEY}"}))
    with Scripted(lambda _: Reply(body, status)) as server:
        try:
            found = call(server.url, "generate", "x", options=ONCE)
        except NanoBananaError as error:
            found = f"{error!r} {error.__dict__}"
    assert KEY not in str(found)
    assert "[key]" in str(found)


@pytest.mark.parametrize("key", ["nb_hush\nx", "nb_hush\r\nX: y", "nb_hush\0", "nb_hüsh", " nb_hush"])
def test_a_key_that_cannot_be_sent_is_not_told(key: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be sent") as caught:
        NanoBananaClient(key, "http://127.0.0.1:9")
    assert "nb_h" not in repr(_chain(caught.value))


def _chain(error: BaseException | None) -> list[str]:
    return [] if error is None else [repr(error), *_chain(error.__cause__), *_chain(error.__context__)]


@pytest.mark.parametrize("method", ["generate", "credits"])
def test_no_variable_of_a_traceback_shows_the_key(call: Call, method: str) -> None:
    prompt = ["x"] if method == "generate" else []
    with Scripted(lambda _: Reply(b"no", 500)) as server, pytest.raises(NanoBananaError) as caught:
        call(server.url, method, *prompt, options=ONCE)
    found = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in found.stack if "prefect_nanobanana" in frame.filename]
    assert any("Ask(" in str(frame.locals) for frame in ours)
    assert KEY not in str([frame.locals for frame in ours])


def test_no_model_is_left_out(call: Call) -> None:
    rows = [{"name": f"m{n}", "creditsCost": 1} for n in range(10_001)]
    with Scripted(lambda _: Reply(json.dumps({"data": rows}).encode())) as server:
        assert len(call(server.url, "models", options=ONCE)) == 10_001


def test_a_catalogue_that_is_none_is_refused(call: Call) -> None:
    body = b'{"data": [' + b'{"name": "m"},' * 100_001 + b"{}]}"
    with Scripted(lambda _: Reply(body)) as server:
        with pytest.raises(AnswerNotUnderstood, match="100002 models, more than"):
            call(server.url, "models", options=ONCE)


# Through a proxy, nothing has reached the API before there is a tunnel.


def _stall(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def _drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-A: ")
    while True:
        connection.sendall(b"a")
        time.sleep(0.05)


def _hang_up(_: socket.socket) -> None:
    pass


def _talk(connection: socket.socket) -> None:
    connection.sendall(b"nonsense\r\n\r\n")


def _refuse(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 407 No\x1b[31m\r\nContent-Length: 0\r\n\r\n")


def _stall_in_tls(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    _stall(connection)


@pytest.fixture(params=[_stall, _drip, _hang_up, _talk, _refuse, _stall_in_tls])
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    with RawServer(request.param) as server:
        monkeypatch.setenv("HTTPS_PROXY", server.url.replace("//", "//me:hush@"))
        yield server


def test_a_proxy_that_makes_no_tunnel_has_delivered_nothing(call: Call, proxy: RawServer) -> None:
    began = time.monotonic()
    # A proxy that refuses is not asked again.
    with pytest.raises((NeverDelivered, AccessNotEnabled)) as caught:
        call("https://api.invalid/api/v1", "generate", "x", options=ONCE)
    assert time.monotonic() - began < 5
    assert "\x1b" not in str(caught.value)
    assert "hush" not in str(_chain(caught.value))
    assert all(request.startswith(b"CONNECT") for request in proxy.requests)
