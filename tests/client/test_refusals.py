"""What refusals mean: the account's, a model's, a firewall's, a quota's; and where each sends people."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from raw_server import RawServer
from servers import Reply, Scripted

from prefect_nanobanana import (
    AccessNotEnabled,
    AnswerNotUnderstood,
    ApiError,
    BadRequest,
    CertificateNotTrusted,
    ConcurrencyLimitReached,
    InvalidInput,
    ModelNotAllowed,
    NeverDelivered,
    NotCharged,
    QuotaExceeded,
)
from prefect_nanobanana.client import GenerationHooks
from prefect_nanobanana.client._payload import Answer
from prefect_nanobanana.client._refusals import read_error

Call = Callable[..., Any]
SUCCESS = {"success": True, "imageUrls": ["https://i.example/1.png"]}
PAGE = b"<!DOCTYPE html><html><title>%s</title></html>"


class Refusals(GenerationHooks):
    """Remembers what was not charged."""

    def __init__(self) -> None:
        self.seen: list[NotCharged] = []

    def not_charged(self, error: NotCharged) -> None:
        self.seen.append(error)


def _refused(call: Call, reply: Reply, method: str = "generate", **options: Any) -> ApiError:
    hooks = Refusals()
    args: dict[str, Any] = {"prompt": "x", "hooks": hooks} if method == "generate" else {}
    with Scripted(lambda _: reply) as server, pytest.raises(ApiError) as caught:
        call(server.url, method, options={"request_timeout_seconds": 1, **options}, **args)
    if method == "generate" and isinstance(caught.value, NotCharged):
        assert hooks.seen == [caught.value], "whoever keeps the books is told the same"
    assert len(server.seen) == 1
    return caught.value


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": "Model nanobanan-2-4k requires a Pro plan"}, ModelNotAllowed),
        ({"error": "forbidden", "requiresPro": True}, ModelNotAllowed),
        ({"error": "forbidden", "requiresPro": "true"}, ModelNotAllowed),
        ({"error": "no", "type": "model_not_allowed"}, ModelNotAllowed),
        ({"error": {"message": "Upgrade your subscription", "type": "plan"}}, ModelNotAllowed),
        ({"message": "该模型仅限会员使用"}, ModelNotAllowed),
        ({"error": "API access is not enabled for this account"}, AccessNotEnabled),
        ({"error": "Upgrade your plan to use the API"}, AccessNotEnabled),
        ({"error": "forbidden", "requiresPro": "false"}, AccessNotEnabled),
        ({}, AccessNotEnabled),
    ],
)
def test_a_403_is_of_the_model_or_of_the_account(
    call: Call, body: Any, expected: type[ApiError]
) -> None:
    error = _refused(call, Reply(json.dumps(body).encode(), 403))
    assert type(error) is expected
    cure = "choose another model" if expected is ModelNotAllowed else "1000 yuan"
    assert cure in str(error)


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (403, PAGE % b"Attention Required! | Cloudflare", AccessNotEnabled, "firewall or proxy"),
        (404, PAGE % b"Nano Banana", BadRequest, "does not end in /api/v1"),
        (405, PAGE % b"Nano Banana", BadRequest, "does not end in /api/v1"),
        (200, PAGE % b"Nano Banana", AnswerNotUnderstood, "does not end in /api/v1"),
        (511, PAGE % b"Hotel Wi-Fi", NeverDelivered, "log in"),
        (302, b"", BadRequest, "log in"),
    ],
)
def test_pages_are_said_to_be_what_they_are(
    call: Call, status: int, body: bytes, kind: type[ApiError], says: str
) -> None:
    reply = Reply(body, status, {"Location": "https://login.example/?token=hush"})
    error = _refused(call, reply, retry_for_seconds=0)
    assert type(error) is kind
    assert says in str(error)
    assert "hush" not in str(error)


FIREWALL = "a firewall or proxy before the API refused the request"
PATH = "does not end in /api/v1"


@pytest.mark.parametrize(
    ("status", "path", "body", "says"),
    [
        (403, "/api/v1", b"error code: 1020", FIREWALL),
        (
            403,
            "/api/v1",
            b'{"title": "Error 1020", "detail": "blocked", "cloudflare_error": true}',
            FIREWALL,
        ),
        (403, "/api/v1", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', FIREWALL),
        (403, "/api/v1", b"", FIREWALL),
        (403, "/api/v1", b'"Forbidden"', FIREWALL),
        (401, "/api/v1", PAGE % b"Log in", "a page came that asks for a login"),
        (407, "/api/v1", b"", "the proxy between here and the API refuses"),
        (404, "/api/v1", PAGE % b"Blocked", "a proxy, a firewall"),
        (451, "/api/v1", PAGE % b"Blocked", "a proxy, a firewall"),
        (426, "/api/v1", PAGE % b"Upgrade", "a proxy, a firewall"),
        (404, "/api/v1/generate", b'{"error": "Not Found"}', PATH),
        (405, "/api/v1/docs", b'{"error": "Method Not Allowed"}', PATH),
        (404, "/api", b"", PATH),
        (404, "", b"404 page not found", PATH),
        (200, "/api/v1/generate", PAGE % b"Nano Banana", PATH),
    ],
)
def test_who_has_refused(call: Call, status: int, path: str, body: bytes, says: str) -> None:
    with Scripted(lambda _: Reply(body, status)) as server, pytest.raises(ApiError) as caught:
        call(server.url + path, "generate", "x", options={"retry_for_seconds": 0})
    assert says in str(caught.value)
    assert "put the right key" not in str(caught.value)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "url", ["https://api.example", "https://api.example/v1", "https://e.example/apis"]
)
def test_a_host_called_api_is_no_path(url: str) -> None:
    """Its address holds `/api`, too."""
    assert PATH in str(read_error(Answer(404, {}, PAGE % b"Nano Banana", url)))


@pytest.mark.parametrize("status", [403, 407])
def test_a_proxy_that_refuses_is_not_asked_again(
    call: Call, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    def say(connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())

    with RawServer(say) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(
            AccessNotEnabled, match=f"refuses to pass the request on .{status} No.*HTTPS_PROXY"
        ):
            call("https://api.invalid/api/v1", "generate", "x", options={"retry_for_seconds": 5})
    assert proxy.connections == 1


@pytest.mark.parametrize(
    "location",
    ["https://ada:hush@login.example/x", "https://login.example/#token=hush", "/x?token=hush"],
)
def test_no_secret_of_a_redirect_is_told(call: Call, location: str) -> None:
    error = _refused(call, Reply(b"", 302, {"Location": location}))
    assert "redirects (302) to " in str(error)
    assert "hush" not in str(error)


def test_a_page_from_the_right_address_is_a_proxys_or_a_login_page(call: Call) -> None:
    with Scripted(lambda _: Reply(PAGE % b"Welcome")) as server:
        with pytest.raises(AnswerNotUnderstood, match=r"Welcome.*login page"):
            call(f"{server.url}/api/v1", "generate", "x")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Retry-After": "40000"}, {"error": "daily quota", "limit": 100}),
        ({"Retry-After": "Sun, 22 Nov 2026 23:00:00 GMT", "Date": "Sun, 22 Nov 2026 12:00:00 GMT"}, {}),
        ({}, {"error": "the daily limit is reached", "type": "quota"}),
    ],
)
def test_a_quota_is_final_at_once_and_says_when_to_come_back(
    call: Call, headers: dict[str, str], body: Any
) -> None:
    error = _refused(call, Reply(json.dumps(body).encode(), 429, headers))
    assert isinstance(error, QuotaExceeded)
    assert ("come back at 20" in str(error)) == bool(headers)


@pytest.mark.parametrize(
    "value",
    [
        "9" * 5000,
        "Sun, 22 Nov 2026 12:00:07 +9999",
        "Sun, 22 Nov 2026 12:00:07 +99999999999",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Sun, 99 Nov 2026 99:99:99 GMT",
        "٣",
        "soon",
    ],
)
@pytest.mark.parametrize("body", [b'{"limit": ' + b"9" * 5000 + b"}", b"[" * 100_000, b"\xff", b""])
def test_an_odd_429_stays_free(call: Call, value: str, body: bytes) -> None:
    replies = [Reply(body, 429, {"Retry-After": value.encode().decode("latin-1")})]
    with Scripted(lambda _: replies.pop() if replies else Reply(json.dumps(SUCCESS).encode())) as server:
        try:
            call(server.url, "generate", "x")
        except QuotaExceeded:
            assert value.startswith("Fri"), "it is in eight thousand years"
        else:
            assert len(server.seen) == 2


def test_one_in_the_budget_is_no_quota(call: Call) -> None:
    error = _refused(call, Reply(b"{}", 429, {"Retry-After": "60"}), retry_for_seconds=59)
    assert isinstance(error, QuotaExceeded)
    replies = [Reply(b"{}", 429, {"Retry-After": "1"})]
    hooks = Refusals()
    with Scripted(lambda _: replies.pop() if replies else Reply(json.dumps(SUCCESS).encode())) as server:
        call(server.url, "generate", "x", hooks=hooks)
    assert [type(error) for error in hooks.seen] == [ConcurrencyLimitReached]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Scripted(lambda _: Reply(json.dumps(SUCCESS).encode()), tls=context) as server:
        yield server


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_companys_own_authority(
    call: Call,
    tls_server: Scripted,
    authority: trustme.CA,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = time.monotonic()
    with pytest.raises(CertificateNotTrusted, match="SSL_CERT_FILE"):
        call(tls_server.url, "generate", "x")
    assert time.monotonic() - began < 5, "waiting would not cure it"
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
    assert call(tls_server.url, "generate", "x").status == "completed"


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_certificates_that_cannot_be_read(
    call: Call, name: str, content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(name, str(path))
    with pytest.raises(InvalidInput, match=name):
        call("https://127.0.0.1:1", "credits")
