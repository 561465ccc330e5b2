"""Lists are read by the guard that images are fetched by: where from, how long, how much, in silence."""

from __future__ import annotations

import gzip
import logging
import time
import tracemalloc
from functools import partial

import pytest
from servers import Reply, Scripted

from prefect_nanobanana import InvalidInput
from prefect_nanobanana.images import Fetcher

_gzip = partial(gzip.compress, mtime=0)  # the same bytes in each of pytest's processes
HERE = ["127.0.0.1"]
MEGABYTE = 1024 * 1024
ZEROS = bytes(64 * MEGABYTE)


def _read(url: str, hosts: list[str] = HERE, most: int = 1000, within: float = 20) -> bytes:
    with Fetcher(hosts) as fetcher:
        return fetcher.read(url, max_bytes=most, within_seconds=within)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"a cat\n", ""),
        (b"a cat\n", "utf-8"),
        (b"a cat\n", "gzip"),  # says so, and is not
        (_gzip(b"a cat\n"), "gzip"),
        (_gzip(b"a ") + _gzip(b"cat\n"), "x-gzip"),
        (_gzip(_gzip(b"a cat\n")), "gzip, gzip"),
        (_gzip(b"a cat\n"), "gzip,aws-chunked"),
    ],
)
def test_a_list_is_what_its_bytes_are(body: bytes, encoding: str) -> None:
    with Scripted(lambda _: Reply(body, headers={"Content-Encoding": encoding})) as host:
        assert _read(f"{host.url}/list.txt") == b"a cat\n"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (bytes(1001), ""),
        (_gzip(ZEROS), "gzip"),
        (_gzip(_gzip(ZEROS)), "gzip, gzip"),
        (_gzip(b"") * 3_000_000, "gzip"),
    ],
    ids=["plain", "gzip", "doubly", "of nothing"],
)
def test_lists_are_bounded_after_decoding(body: bytes, encoding: str) -> None:
    with Scripted(lambda _: Reply(body, length=-1, headers={"Content-Encoding": encoding})) as host:
        tracemalloc.start()
        try:
            with pytest.raises(InvalidInput, match="/list.txt is larger than 1000 bytes"):
                _read(f"{host.url}/list.txt")
            assert tracemalloc.get_traced_memory()[1] < 16 * MEGABYTE
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"a cat\n" * 99, drip_seconds=0.02),
        Reply(drip_headers=True, drip_seconds=0.02),
        Reply(b"", 302, {"Location": "/again"}, stall_seconds=0.2),
    ],
    ids=["body", "headers", "redirects"],
)
def test_one_deadline_over_all_of_a_list(reply: Reply) -> None:
    started = time.monotonic()
    with Scripted(lambda _: reply) as host, pytest.raises(InvalidInput, match="within 0.5 s"):
        _read(host.url, within=0.5)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["127.0.0.2", "localhost", "2130706434", "127.2"])
def test_lists_are_not_read_inside(name: str) -> None:
    with Scripted(lambda _: Reply(b"secret"), "127.0.0.2") as inside:
        for scheme in ("http", "https"):
            target = f"{scheme}://{name}:{inside.port}/latest/meta-data#x.txt"
            with Scripted(lambda _, to=target: Reply(b"", 302, {"Location": to})) as host:  # type: ignore[misc]
                for url in (target, host.url):
                    with pytest.raises(InvalidInput, match="not https|no public address"):
                        _read(url)
        assert inside.connections == 0


@pytest.mark.parametrize(
    "reply",
    [Reply(b"", 404), Reply(reset=True), Reply(b"", 302, {"Location": "ftp://me:hush@host/?hush"})],
    ids=["404", "reset", "ftp"],
)
def test_nothing_secret_of_an_address_is_told(reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Scripted(lambda _: reply) as host, pytest.raises(InvalidInput) as caught:
        _read(f"{host.url.replace('//', '//me:hush@')}/list.txt?sig=hush#hush")
    assert str(caught.value).startswith(f"{host.url}/list.txt")
    assert "hush" not in f"{caught.value!r} {caplog.text}"
    assert host.url not in caplog.text
