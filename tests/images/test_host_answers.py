"""Bytes over headers, addresses to the letter: what image hosts answer, and what they are asked."""

from __future__ import annotations

import base64
import gzip
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from urllib.parse import quote

import pytest
from odd_pictures import picture
from servers import Reply, Scripted, Seen

from prefect_nanobanana import ImageNotCopied
from prefect_nanobanana._common.addresses import LONGEST_SHOWN
from prefect_nanobanana.images import Fetcher
from prefect_nanobanana.images._download import TransientDownloadError
from prefect_nanobanana.images._urls import shown

_gzip = partial(gzip.compress, mtime=0)  # the same bytes in each of pytest's processes


def _bare_deflate(content: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(content) + deflater.flush()


PNG, JPEG, WEBP, GIF, AVIF = map(picture, ("PNG", "JPEG", "WEBP", "GIF", "AVIF"))
CUT_CHUNK = b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PNG)


def _fetch(url: str) -> bytes:
    with Fetcher(["127.0.0.1"]) as fetcher, closing(fetcher.fetch(url).body) as body:
        return body.file.read()


@contextmanager
def _raw(answer: bytes) -> Iterator[str]:
    """A host that answers just so."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize(
    "encoding",
    [
        *("aws-chunked", "", "none", "utf-8", "binary", "UTF-8, none", "identity, identity", "base64"),
        *("gzip", "br", "deflate", "image/png", "aws-chunked,gzip"),
    ],
)
def test_a_body_is_what_it_is(encoding: str) -> None:
    with Scripted(lambda _: Reply(PNG, headers={"Content-Encoding": encoding})) as host:
        assert _fetch(host.url) == PNG


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", _gzip(PNG)),
        ("X-GZIP", _gzip(PNG) + b"\0\0"),
        ("deflate", zlib.compress(PNG)),
        ("aws-chunked, gzip", _gzip(PNG)),
        ("gzip, gzip", _gzip(_gzip(PNG))),
        # Which of its compressions a header names is no matter, and `deflate` may have no header.
        ("deflate", _bare_deflate(PNG)),
        ("deflate, gzip", _gzip(_bare_deflate(PNG))),
        ("deflate", b"\x58\x85" + zlib.compress(PNG)[2:]),
        ("deflate", _gzip(PNG)),
        ("gzip", zlib.compress(PNG)),
        ("identity, gzip", _gzip(PNG)),
        ('"gzip";q=1', _gzip(PNG)),
    ],
)
def test_compressed_all_the_same(encoding: str, body: bytes) -> None:
    headers = {"Content-Encoding": encoding, "ETag": '"0123456789abcdef0123456789abcdef"'}
    with Scripted(lambda _: Reply(body, headers=headers)) as host:
        assert _fetch(host.url) == PNG


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\nX-A: b\r\n\r\n" * 3,
        b"HTTP/1.1 103 Early Hints\r\nLink: </x.css>; rel=preload\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 199 Odd\r\nContent-Length: 3\r\n\r\n",
    ],
)
def test_answers_before_the_answer_are_passed_over(first: bytes) -> None:
    with _raw(first + OK + PNG) as url:
        assert _fetch(url) == PNG


@pytest.mark.parametrize(
    "line",
    [
        *(b"no header", b"X-Blank : 5", "x-amz-meta-näme: 5".encode(), b"X-Return: a\rb", b": nameless"),
        *(b"HTTP/1.1 200 OK", b"X-Folded: a\r\n b", b" folded", "X-A: Å全光".encode()),
    ],
)
def test_a_line_that_is_no_header_spoils_no_other(line: bytes) -> None:
    """http.client takes what follows it for text: the picture came with its chunks' lengths inside."""
    chunked = b"\r\nTransfer-Encoding: chunked \r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(PNG), PNG)
    with _raw(b"HTTP/1.1 200 OK\r\n" + line + chunked) as url:
        assert _fetch(url) == PNG


@pytest.mark.parametrize("status", [200, 201, 203, 206, 226])
def test_successes(status: int) -> None:
    whole = {"Content-Range": f"bytes 0-{len(PNG) - 1}/{len(PNG)}"} if status == 206 else {}
    with Scripted(lambda _: Reply(PNG, status, whole)) as host:
        assert _fetch(host.url) == PNG


@pytest.mark.parametrize("part", ["bytes 0-9/10000", "bytes 1-227/227", "bytes 0-226/*", "", "x"])
def test_a_part_is_no_picture(part: str) -> None:
    """A part of what cannot be checked would be taken for the whole."""
    with (
        Scripted(lambda _: Reply(PNG, 206, {"Content-Range": part})) as host,
        pytest.raises(ImageNotCopied, match="answered 206"),
    ):
        _fetch(host.url)


@pytest.mark.parametrize(
    "rest", [b"Content-Length: 99\r\n\r\nmoved", CUT_CHUNK, b"\r\n" + b"x" * 5_000_000]
)
def test_what_comes_with_a_redirect_does_not_matter(rest: bytes) -> None:
    with (
        Scripted(lambda _: Reply(PNG)) as host,
        _raw(b"HTTP/1.1 302 Found\r\nLocation: %s\r\n" % host.url.encode() + rest) as url,
    ):
        assert _fetch(url) == PNG


@pytest.mark.parametrize(
    ("status", "gone", "may_pass"),
    [
        *((404, True, True), (410, True, False), (403, False, True), (401, False, False)),
        *((202, False, True), (204, False, False), (206, False, False), (304, False, False)),
        *((400, False, False), (451, False, False), (429, False, True), (500, False, True)),
    ],
)
def test_gone_is_what_a_host_says_is_gone(status: int, gone: bool, may_pass: bool) -> None:
    with Scripted(lambda _: Reply(b"", status)) as host, pytest.raises(ImageNotCopied) as caught:
        _fetch(f"{host.url}/x.png?sig=hush")
    assert str(caught.value) == f"{host.url}/x.png answered {status}"
    assert caught.value.gone is gone
    assert isinstance(caught.value, TransientDownloadError) is may_pass


TO_THE_LETTER = [
    "/a%2fb.png?sig=ab%2fcd%2bef%3d",
    "/~tilde/it's(1)!*.png?x=[1]|{2}^`",
    "/a/../b/./c//d.png",
    "/%7Eone/%c3%a9.png?X-Amz-Credential=AKIA/20260807/us-east-1/s3/aws4_request",
    "/x.png?",
    "/x.png?a=b?c=/d&e=%",
    "/100%.png?x=%zz",
    "?only=a-query",
    "/x\\y.png",
]


def _sent(target: str) -> str:
    return target if target.startswith("/") else f"/{target}"


@pytest.mark.parametrize("target", TO_THE_LETTER)
def test_addresses_are_sent_to_the_letter(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Scripted(lambda _: Reply(PNG)) as host:
        assert _fetch(f" {host.url}{target}#part\n") == PNG
        assert host.seen[0].path == _sent(target)
        with monkeypatch.context() as patch:
            patch.setenv("http_proxy", host.url)
            with Fetcher(["http://pictures.example"]) as proxied:
                proxied.fetch(f"http://pictures.example{target}").body.close()
        assert host.seen[1].path == f"http://pictures.example{_sent(target)}"


REDIRECTS = [
    (target, whole)
    for target in TO_THE_LETTER
    for whole in (True, False)
    # What is relative is resolved.
    if target[0] == "/" and (whole or not ("/." in target or target.endswith("?")))
]


@pytest.mark.parametrize(("target", "whole"), REDIRECTS)
def test_redirects_are_followed_to_the_letter(target: str, whole: bool) -> None:
    def answer(seen: Seen) -> Reply:
        where = (host.url if whole else "") + target
        return Reply(b"", 302, {"Location": where}) if seen.path == "/first" else Reply(PNG)

    with Scripted(answer) as host:
        assert _fetch(f"{host.url}/first") == PNG
        assert host.seen[1].path == target


@pytest.mark.parametrize(
    "path", ["/café.png?q=é", "/日本語/x.png", "/Å…\u0085.png", "/a b.png", "/%C3%A9é.png", "/😀?x=😀"]
)
def test_addresses_outside_ascii_are_encoded_once(path: str) -> None:
    expected = quote(path, safe="/?=%")
    with Scripted(lambda _: Reply(PNG)) as host:
        assert _fetch(host.url + path) == PNG
        assert host.seen[0].path == expected
        for location in (path, host.url + path):
            redirect = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n"
            raw = redirect % location.replace("/", host.url + "/", int(location is path)).encode()
            with _raw(raw) as first:
                assert _fetch(first) == PNG
            assert host.seen[-1].path == expected


def test_a_location_in_latin_1_is_encoded_as_it_is() -> None:
    def answer(seen: Seen) -> Reply:
        return Reply(b"", 301, {"Location": "/caf\xe9.png"}) if seen.path == "/" else Reply(PNG)

    with Scripted(answer) as host:
        assert _fetch(host.url) == PNG
        assert host.seen[1].path == "/caf%E9.png"


ENCODED = base64.b64encode(PNG).decode()
LINES = "\r\n".join(ENCODED[at : at + 76] for at in range(0, len(ENCODED), 76))


@pytest.mark.parametrize(
    "text",
    [
        f"data:image/png;base64,{ENCODED}",
        f"  \n data:image/png;base64,{ENCODED}",
        f"DATA:IMAGE/PNG;BASE64,{ENCODED}",
        f"data:image/png;base64,{ENCODED.rstrip('=')}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(PNG).decode().rstrip('=')}",
        f"data:image/png;base64,\n{LINES}\n",
        f"data:image/png;base64,{LINES.replace('=', '%3D').replace('+', '%2B')}",
        f"data:;base64,{ENCODED}",
        f"data:image/png;name=a.png;charset=utf-8; base64 ,{ENCODED}",
        f"data:image/png,{quote(PNG)}",
        f"data:image/png,{ENCODED}",
        f"data:image/png;base64,{ENCODED}#part",
        f"image/png;base64,{ENCODED}",
        f"base64,{ENCODED}",
        ENCODED,
        f"\n{LINES}\n",
        ENCODED.rstrip("="),
        base64.urlsafe_b64encode(PNG).decode(),
    ],
)
def test_pictures_in_the_place_of_an_address(text: str) -> None:
    assert _fetch(text) == PNG


@pytest.mark.parametrize("content", [JPEG, WEBP, GIF, AVIF], ids=["jpeg", "webp", "gif", "avif"])
def test_bare_base64_of_other_kinds(content: bytes) -> None:
    assert _fetch(base64.b64encode(content).decode()) == content


SECRET = "hush" * 3000


@pytest.mark.parametrize(
    "text",
    [
        f"https://127.0.0.2/{SECRET}",
        f"https://{'a.' * 3000}example/x.png",
        f"http://me:{SECRET}@host.example/x?{SECRET}",
        f"{SECRET}:{SECRET}",
        f"data:{SECRET},{SECRET}",
        f"data:image/png;base64,{SECRET}!",
        f"data:text/html,{SECRET}",
        f"/files/{SECRET}",
        "https://host.example:99999/\x1b[31m" + SECRET,
        base64.b64encode(b"\x89PNG\r\n\x1a\n" + SECRET.encode()).decode(),
    ],
)
def test_no_message_holds_much_of_an_address(text: str) -> None:
    with pytest.raises(ImageNotCopied) as caught:
        _fetch(text)
    assert len(str(caught.value)) < 2 * LONGEST_SHOWN
    assert len(shown(text)) <= LONGEST_SHOWN
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 abc " + SECRET.encode() + b"\r\n\r\n",
        SECRET.encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + SECRET.encode() + b"\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.2/" + b"%" * 60000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: " + SECRET.encode() + b"://x\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["status", "no http", "chunk", "location", "scheme"],
)
def test_no_message_holds_much_of_an_answer(answer: bytes) -> None:
    with _raw(answer) as url, pytest.raises(ImageNotCopied) as caught:
        _fetch(url)
    assert len(str(caught.value)) < 2 * LONGEST_SHOWN
