"""One deadline for all of a request, bounds on what is unpacked, no key in clear but to this machine."""

from __future__ import annotations

import contextlib
import gzip
import json
import resource
import socket
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from raw_server import RawServer
from servers import Reply, Scripted, Seen

from prefect_nanobanana import BadRequest, InvalidInput, NotCharged, UnknownOutcome
from prefect_nanobanana.client import NanoBananaClient
from prefect_nanobanana.client._network import Addresses
from prefect_nanobanana.client._timings import Timings

Call = Callable[..., Any]
SUCCESS = json.dumps({"success": True, "imageUrls": ["https://i.example/1.png"]}).encode()


def _endlessly(
    connection: socket.socket, piece: bytes, *, first: bytes = b"", pause: float = 0.05
) -> None:
    connection.sendall(first)
    while True:
        connection.sendall(piece)
        time.sleep(pause)


def _continue(connection: socket.socket) -> None:
    _endlessly(connection, b"HTTP/1.1 100 Continue\r\n\r\n", pause=0)


def _continue_slowly(connection: socket.socket) -> None:
    _endlessly(connection, b"HTTP/1.1 100 Continue\r\n\r\n")


def _drip_headers(connection: socket.socket) -> None:
    _endlessly(connection, b"a", first=b"HTTP/1.1 200 OK\r\nX-A: ")


def _drip_status(connection: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK" + b" " * 10_000:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def _drip_body(connection: socket.socket) -> None:
    _endlessly(connection, b" ", first=b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")


def _drip_chunks(connection: socket.socket) -> None:
    first = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    _endlessly(connection, b"1\r\n \r\n", first=first)


def _drip_events(connection: socket.socket) -> None:
    first = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    _endlessly(connection, b": heartbeat\n\n", first=first)


def _say_nothing(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


DRIPS = [
    _continue,
    _continue_slowly,
    _drip_headers,
    _drip_status,
    _drip_body,
    _drip_chunks,
    _drip_events,
    _say_nothing,
]


@pytest.mark.parametrize("say", DRIPS, ids=lambda say: say.__name__)
def test_no_server_holds_a_request_longer_than_its_time(
    call: Call, say: Callable[[socket.socket], None]
) -> None:
    began = time.monotonic()
    with RawServer(say) as server, pytest.raises(UnknownOutcome, match="no answer within 0.5 s"):
        call(
            server.url,
            "generate",
            "x",
            mode="stream" if say is _drip_events else "sync",
            options={"request_timeout_seconds": 0.5},
        )
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("method", ["models", "credits"])
def test_nor_a_look_up(call: Call, method: str) -> None:
    began = time.monotonic()
    quick = Timings(look_up=0.4, retry_look_ups_for=0)
    with RawServer(_drip_headers) as server, pytest.raises(UnknownOutcome):
        call(server.url, method, options={"timings": quick})
    assert time.monotonic() - began < 3


def test_nor_a_tls_handshake(call: Call) -> None:
    def accept(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted.append(listening.accept()[0])

    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, args=(listening,), daemon=True).start()
        began = time.monotonic()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(NotCharged):
            call(url, "generate", "x", options={"retry_for_seconds": 0, "timings": Timings(connect=0.4)})
        assert time.monotonic() - began < 3
        listening.shutdown(socket.SHUT_RDWR)
    for connection in accepted:
        connection.close()


def test_a_stream_is_left_as_soon_as_its_last_event_has_come(call: Call) -> None:
    def say(connection: socket.socket) -> None:
        event = {"type": "complete", "data": json.loads(SUCCESS)}
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        connection.sendall(b"data: " + json.dumps(event).encode() + b"\n\n")
        _say_nothing(connection)  # nor hangs up

    began = time.monotonic()
    with RawServer(say) as server:
        assert call(server.url, "generate", "x", mode="stream").status == "completed"
    assert time.monotonic() - began < 3


def _bomb(layers: int, megabytes: int) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    body = b"".join(packer.compress(b" " * 2**20) for _ in range(megabytes)) + packer.flush()
    for _ in range(layers - 1):
        body = gzip.compress(body)
    return body


@pytest.mark.parametrize(("layers", "megabytes"), [(1, 256), (2, 256)])
def test_what_is_packed_is_bounded_when_unpacked(call: Call, layers: int, megabytes: int) -> None:
    body = _bomb(layers, megabytes)
    assert len(body) < 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reply = Reply(body, 200, {"Content-Encoding": ", ".join(["gzip"] * layers)})
    with Scripted(lambda _: reply) as server, pytest.raises(UnknownOutcome, match="larger than"):
        call(server.url, "generate", "x", options={"max_answer_bytes": 2**22})
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60 * 1024, f"{grown} kB"


def test_a_list_of_millions_of_values_is_not_read(call: Call) -> None:
    body = b'{"success": true, "a": [' + b"[]," * 3_000_000 + b"0]}"
    with Scripted(lambda _: Reply(body)) as server, pytest.raises(UnknownOutcome, match="not JSON"):
        call(server.url, "generate", "x")


# In clear only to this machine.


@pytest.mark.parametrize(
    ("host", "address", "passes"),
    [
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("api.localhost", "127.0.0.9", True),
        ("api.localhost", "10.0.0.7", False),
        ("localhost", "192.0.2.1", False),
        ("box.internal", "10.0.0.7", True),
        ("BOX.internal.", "10.0.0.7", True),
        ("other.internal", "10.0.0.7", False),
    ],
)
def test_plain_http_goes_where_names_lead_and_not_by_their_looks(
    host: str, address: str, passes: bool
) -> None:
    addresses = Addresses(True, ["box.internal"], resolve=lambda *_: ["127.0.0.1", address])
    if passes:
        assert addresses.of(host, 80) == ["127.0.0.1", address]
    else:
        with pytest.raises(BadRequest, match=f"leads to {address}, .* in clear"):
            addresses.of(host, 80)


def test_the_key_does_not_leave_for_a_name_that_leads_elsewhere(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: there)
    with pytest.raises(BadRequest, match="in clear"):
        call("http://api.localhost", "generate", "x")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"])
def test_a_proxy_is_never_told_the_key_in_clear(
    call: Call, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scripted(lambda _: Reply(SUCCESS)) as server, Scripted(lambda _: Reply(SUCCESS)) as proxy:
        monkeypatch.setenv(name, proxy.url)
        assert call(server.url, "generate", "x").status == "completed"
        assert (len(server.seen), proxy.connections) == (1, 0)


def test_https_goes_through_the_proxy_which_sees_no_key(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []

    def say(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        heard.append(connection.recv(65536))

    with RawServer(say) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:pw%40@"))
        with pytest.raises(NotCharged) as caught:
            call("https://api.invalid/api/v1", "generate", "x", options={"retry_for_seconds": 0})
    (request,) = proxy.requests
    assert request.startswith(b"CONNECT api.invalid:443 ")
    assert b"Proxy-Authorization: Basic bWU6cHdA" in request
    assert b"nb_very" not in b"".join([request, *heard])
    assert "pw" not in str(caught.value)


def test_no_proxy_is_honoured(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(_say_nothing) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(NotCharged):
            call("https://127.0.0.1:1", "generate", "x", options={"retry_for_seconds": 0})
        assert proxy.connections == 0


@pytest.mark.parametrize("proxy", ["ftp://me:hush@proxy:1", "http://me:hush@[bad", "socks9://me:hush@p"])
def test_a_proxy_that_cannot_be_used_is_said_without_its_password(
    call: Call, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(InvalidInput, match="HTTPS_PROXY") as caught:
        call("https://127.0.0.1:1", "generate", "x")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "url"),
    [("nb_ä", "http://127.0.0.1:1"), ("nb_x", "http://[bad"), ("nb_x", "http://a\nb"), ("k", "h:x:y")],
)
def test_a_key_or_an_address_that_cannot_be_sent_is_refused_when_the_client_is_made(
    key: str, url: str
) -> None:
    with pytest.raises(InvalidInput, match="cannot be sent") as caught:
        NanoBananaClient(key, url)
    assert key not in str(caught.value) or key == "k"


def test_addresses_that_do_not_answer_are_passed_over(call: Call) -> None:
    def answer(_: Seen) -> Reply:
        return Reply(SUCCESS)

    with Scripted(answer) as server:  # localhost is ::1 first, where nobody listens
        assert call(server.url.replace("127.0.0.1", "localhost"), "generate", "x").image_urls
