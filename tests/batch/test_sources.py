"""Where lists may come from: bounded, checked, and from no place that only a shell would reach."""

from __future__ import annotations

import gzip
import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import trustme
from lists import NO_WEB, no_s3
from prefect import flow
from prefect_aws import S3Bucket
from servers import Reply, Scripted, Seen

from prefect_nanobanana import InvalidInput
from prefect_nanobanana._common.local_files import FOLDERS_VARIABLE, started_by_worker
from prefect_nanobanana.batch._prompts import gather_prompts
from prefect_nanobanana.batch._sources import MAX_LIST_BYTES, WEB_SECONDS
from prefect_nanobanana.images import Fetcher
from prefect_nanobanana.s3 import ObjectStore


def _from_path(path: Any) -> list[str]:
    return [item.prompt.prompt for item in gather_prompts([], str(path), no_s3, NO_WEB)]


def _from_web(url: str, *hosts: str) -> list[str]:
    with Fetcher(hosts, 1) as fetcher:
        return [item.prompt.prompt for item in gather_prompts([], url, no_s3, fetcher)]


def _refused(read: Callable[..., Any], *given: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(*given)
    text = str(caught.value)
    assert "hush" not in text
    assert text.isprintable()
    assert len(text) < 900
    return text


# Paths.


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nope.txt", r"cannot be read (No such file or directory)"),
        (".", "cannot be read (Is a directory)"),
        ("fifo.txt", "cannot be read (it is not a regular file)"),
        ("to-zero.txt", "cannot be read (it is not a regular file)"),
        ("circle.txt", "cannot be read (there is no such user or file)"),
        ("/dev/zero", "cannot be read (it is not a regular file)"),
        ("~nosuchuser/x.txt", "cannot be read (there is no such user or file)"),
        ("a\0b.txt", "a\\x00b.txt cannot be read"),
        ("a\x1b[31mb.txt", "a\\x1b[31mb.txt cannot be read"),
        ("x" * 5000 + ".txt", "cannot be read (File name too long)"),
        ("file:///etc/hostname", "prompts_from: file:// cannot be read"),
        ("ftp://ada:hush@host/x.txt", "prompts_from: ftp:// cannot be read"),
    ],
)
def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.txt")
    Path("to-zero.txt").symlink_to("/dev/zero")
    Path("circle.txt").symlink_to("circle.txt")
    began = time.monotonic()
    assert says in _refused(_from_path, name)
    assert time.monotonic() - began < 5


def test_names_are_taken_as_they_are(tmp_path: Path) -> None:
    for name in ("what?.txt", "a#b.txt", "ü ö.TXT", "https:.txt"):
        (tmp_path / name).write_text("a cat")
        assert _from_path(tmp_path / name) == ["a cat"]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process is told that a worker starts for a run."""
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "0192a3b4-0000-7000-8000-000000000000")


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    for name in ("lists/in.txt", "lists/deep/in.txt", "lists-of-others/out.txt", "out.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a cat")
    (tmp_path / "lists/link-out.txt").symlink_to(tmp_path / "out.txt")
    (tmp_path / "lists/link-in.txt").symlink_to("in.txt")
    (tmp_path / "linked").symlink_to("lists")
    return tmp_path


OUTSIDE = [
    *(
        "out.txt",
        "lists/../out.txt",
        "lists/link-out.txt",
        "lists-of-others/out.txt",
        "lists/nope/../../out.txt",
    ),
    *("nope.txt", "lists/../nope.txt"),
]
INSIDE = ["lists/in.txt", "lists/deep/../in.txt", "lists/link-in.txt", "linked/deep/in.txt"]


@pytest.mark.usefixtures("worker")
def test_no_folder_is_open_to_a_run_that_a_worker_starts(lists: Path) -> None:
    for name in (*INSIDE, *OUTSIDE):
        text = _refused(_from_path, lists / name)
        assert f"{name} is not below a folder that lists may be read from" in text
        assert FOLDERS_VARIABLE in text
    for path in ("/etc/hostname.txt", "~root/x.txt", "relative.txt"):
        assert "is not below a folder" in _refused(_from_path, path)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("named", ["~nosuchuser/lists", "circle", "\x7f"])
def test_folders_that_are_none_open_nothing(
    lists: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    (lists / "circle").symlink_to("circle")
    folder = named if named.startswith("~") else f"{lists}/{named}"
    monkeypatch.setenv(FOLDERS_VARIABLE, folder)
    assert "is not below a folder" in _refused(_from_path, lists / "lists/in.txt")
    monkeypatch.setenv(FOLDERS_VARIABLE, f"{folder}{os.pathsep}{lists}/lists")
    assert _from_path(lists / "lists/in.txt") == ["a cat"]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("named", ["lists", "nothing:lists", " lists/deep/.. :", "linked"])
def test_folders_that_are_open_to_it(lists: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    folders = os.pathsep.join(
        f"{lists}/{name.strip()}" if name.strip() else name for name in named.split(":")
    )
    monkeypatch.setenv(FOLDERS_VARIABLE, folders)
    for name in INSIDE:
        assert _from_path(lists / name) == ["a cat"]
    for name in OUTSIDE:
        assert "is not below a folder" in _refused(_from_path, lists / name)
    assert "No such file" in _refused(_from_path, lists / "lists/nope.txt")


def test_a_script_reads_what_it_likes(lists: Path) -> None:
    @flow
    def of_a_script() -> list[str]:
        return _from_path(lists / "out.txt")

    assert started_by_worker() is False
    assert of_a_script.fn() == ["a cat"]


# S3.


def test_from_s3(make_bucket: Callable[..., S3Bucket], moto_url: str) -> None:
    store = ObjectStore(make_bucket(endpoint_url=moto_url))
    store.put("lists/a#b?.txt", b"a cat", "text/plain")
    store.put("lists/packed.csv", gzip.compress(b"prompt\na dog"), "text/plain")
    for key, text in (("a#b?.txt", "a cat"), ("packed.csv", "a dog")):
        for scheme in ("s3", "S3"):
            address = f"{scheme}://{store.name}/lists/{key}"
            (found,) = gather_prompts([], address, store.uris.read, NO_WEB)
            assert found.prompt.prompt == text


@pytest.mark.parametrize("size", [101, 10_000])
def test_objects_have_a_bound(make_bucket: Callable[..., S3Bucket], moto_url: str, size: int) -> None:
    store = ObjectStore(make_bucket(endpoint_url=moto_url))
    store.put("big.txt", b"x" * size, "text/plain")
    read: list[int] = []

    def counted(uri: str, max_bytes: int) -> bytes:
        content = store.uris.read(uri, max_bytes)
        read.append(len(content))
        return content

    refused = pytest.raises(InvalidInput, match="big.txt: is larger than 100 bytes: split it")
    with MAX_LIST_BYTES.use(100), refused:
        gather_prompts([], f"s3://{store.name}/big.txt", counted, NO_WEB)
    assert read == [101]


# Web addresses. What is forbidden is played by 127.0.0.2, which counts who connects.


@pytest.fixture(params=["http", "https"])
def inside(request: pytest.FixtureRequest) -> Iterator[Scripted]:
    tls = None
    if request.param == "https":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.2").configure_cert(tls)
    with Scripted(lambda _: Reply(b"instance-credentials"), "127.0.0.2", tls) as server:
        yield server


@pytest.mark.parametrize("suffix", ["/latest#x.txt", "/latest?x.txt", "/x.txt", "/x.csv#a", "/x.json"])
def test_private_addresses_are_not_asked(inside: Scripted, suffix: str) -> None:
    text = _refused(_from_web, inside.url + suffix)
    assert "cannot be read" in text
    assert "image_hosts" in text
    assert inside.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("hops", [1, 3])
def test_nor_are_they_by_a_redirect(inside: Scripted, status: int, hops: int) -> None:
    def answer(seen: Seen) -> Reply:
        n = int(seen.path.rpartition("/")[2].partition(".")[0])
        target = f"{inside.url}/secret.txt" if n == hops else f"/{n + 1}.txt"
        return Reply(b"", status, {"Location": target})

    with Scripted(answer) as server:
        text = _refused(_from_web, f"{server.url}/1.txt?sig=hush", "127.0.0.1")
    assert "cannot be read" in text
    assert server.connections >= 1
    assert inside.connections == 0


def test_a_host_of_ours_is_asked() -> None:
    def answer(seen: Seen) -> Reply:
        if seen.path.startswith("/old"):
            return Reply(b"", 302, {"Location": "/new.txt"})
        packed = "packed" in seen.path
        return Reply(gzip.compress(b"a cat\n") if packed else b"a cat\n")

    with Scripted(answer) as server:
        for path in ("/a.txt", "/old.txt", "/packed.txt", "/b%2etxt", "/a.txt?sig=hush&x=.csv#y.json"):
            assert _from_web(server.url + path, "127.0.0.1") == ["a cat"]
        assert all("authorization" not in seen.headers for seen in server.seen)


@pytest.mark.parametrize("path", ["/latest#x.txt", "/latest?x.txt", "/x.txt/latest", "/#.txt"])
def test_the_kind_is_that_of_the_path(path: str) -> None:
    with Scripted(lambda _: Reply(b"a cat\n")) as server:
        text = _refused(_from_web, server.url + path, "127.0.0.1")
    assert "cannot be read as prompts: use a .txt" in text


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(b"no", 403), "answered 403"),
        (Reply(b"no", 500), "answered 500"),
        (Reply(b"<!doctype html><p>Log in", 200), "is a web page and no list"),
        (Reply(reset=True), "cannot be read"),
        (Reply(b"a", 302, {"Location": "file:///etc/hostname"}), "cannot be read"),
        (Reply(b"a", 302, {"Location": "/p.txt"}), "redirects"),
    ],
)
def test_what_goes_wrong_is_said_without_secrets(
    caplog: pytest.LogCaptureFixture, reply: Reply, says: str
) -> None:
    caplog.set_level(logging.DEBUG)
    with Scripted(lambda _: reply) as server:
        url = f"http://ada:hush@127.0.0.1:{server.port}/p.txt?X-Amz-Signature=hush&v=2"
        assert says in _refused(_from_web, url, "127.0.0.1")
    assert "hush" not in caplog.text


def test_a_long_name_is_cut_in_messages() -> None:
    with Scripted(lambda _: Reply(b"ok\nx\0")) as server:
        text = _refused(_from_web, f"{server.url}/{'x' * 5000}%0A%1B.txt", "127.0.0.1")
    assert "xxx \\x1b.txt, line 2: prompt: character 2" in text
    assert len(text) < 300


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/x.txt",
        "http://",
        "https:///x.txt",
        "http://127.0.0.1:port/x.txt",
        "http://a b/x.txt",
    ],
)
def test_what_is_no_url(url: str) -> None:
    assert "prompts_from" in _refused(_from_web, url, "127.0.0.1")


@pytest.mark.parametrize("kind", ["told", "endless", "gzip", "gzip twice", "encoded", "encoded twice"])
def test_lists_of_the_web_have_a_bound(kind: str) -> None:
    once = gzip.compress(b"a\n" * 10_000_000)
    replies = {
        "told": Reply(b"a\n", length=2_000_000),
        "endless": Reply(b"", length=-1, pieces=repeat(b"a\n" * 5000)),
        "gzip": Reply(once),
        "gzip twice": Reply(gzip.compress(once)),
        "encoded": Reply(once, headers={"Content-Encoding": "gzip"}),
        "encoded twice": Reply(gzip.compress(once), headers={"Content-Encoding": "gzip, gzip"}),
    }
    began = time.monotonic()
    with MAX_LIST_BYTES.use(1_000_000), Scripted(lambda _: replies[kind]) as server:
        assert "is larger than 1000000 bytes" in _refused(_from_web, server.url + "/p.txt", "127.0.0.1")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", ["body", "headers", "redirects"])
def test_lists_of_the_web_have_a_deadline(kind: str) -> None:
    replies = {
        "body": Reply(b"a" * 1000, drip_seconds=0.05),
        "headers": Reply(b"", drip_headers=True, drip_seconds=0.05),
        "redirects": Reply(b"", 302, {"Location": "/q.txt"}, stall_seconds=0.6),
    }
    began = time.monotonic()
    with WEB_SECONDS.use(1.0), Scripted(lambda _: replies[kind]) as server:
        assert "cannot be read" in _refused(_from_web, server.url + "/p.txt", "127.0.0.1")
    assert time.monotonic() - began < 5
