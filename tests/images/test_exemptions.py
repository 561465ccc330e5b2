"""Exemptions open no more than they say, and an address is read in one way only."""

from __future__ import annotations

import gzip
import socket
import time

import pytest
from networks import PNG, NoNetwork, fetch_bytes, proxy_of
from raw_server import RawServer
from servers import Reply, Scripted

from prefect_nanobanana import ImageNotCopied, NanoBananaCredentials
from prefect_nanobanana.images._addresses import Addresses
from prefect_nanobanana.images._download import DOWNLOAD_TIMEOUT_SECONDS, TransientDownloadError


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST.", "api.localhost", "localhost.localdomain", "printer.local"),
        *("metadata", "metadata.google.internal", "router.lan", "nas.home.arpa", "ip6-localhost"),
        *("2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "10.257", "0", "134744072"),
        *("127.0.0.1", "127.0.0.1.", "%31%32%37.0.0.1", "[::1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]"),
        *("169.254.169.254", "[fd00:ec2::254]", "[fe80::1%25eth0]", "0x7f.0.0.0x1", "017700000001"),
    ],
)
def test_nothing_inside_is_asked_for_through_aproxy_of(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("no_proxy", "")
    with proxy_of(monkeypatch, "https_proxy") as proxy, proxy_of(monkeypatch, "http_proxy"):
        for url in (f"https://{host}/x.png", f"https://me@{host}:8443/x.png"):
            with pytest.raises(ImageNotCopied, match="no public address|not an https URL"):
                fetch_bytes(url, Addresses())
        assert proxy.connections == 0


@pytest.mark.parametrize(
    ("trusted", "url", "allowed"),
    [
        ("inside.example", "http://inside.example:81/x", True),
        ("inside.example", "https://inside.example/x", True),
        ("inside.example:81", "http://inside.example:81/x", True),
        ("inside.example:81", "https://inside.example:81/x", True),
        ("inside.example:81", "http://inside.example/x", False),
        ("http://inside.example", "http://inside.example:80/x", True),
        ("http://inside.example", "http://inside.example:81/x", False),
        ("http://inside.example", "https://inside.example/x", False),
        ("https://inside.example", "http://inside.example/x", False),
        ("HTTPS://Inside.Example:8443/", "https://inside.example:8443/x", True),
        ("https://inside.example:8443", "https://inside.example/x", False),
        ("http://inside.example:81", "http://sub.inside.example:81/x", False),
        ("inside.example", "http://inside.example.evil.example/x", False),
        ("http://[fd12::1]:9000", "http://[FD12:0::1]:9000/x", True),
        ("http://[fd12::1]:9000", "http://[fd12::1]:9001/x", False),
        ("fd12::1", "http://[fd12::1]:9001/x", True),
        ("b\u00fccher.example", "http://xn--bcher-kva.example/x", True),
    ],
)
def test_exemptions_open_no_more_than_they_say(trusted: str, url: str, allowed: bool) -> None:
    network = NoNetwork()
    credentials = NanoBananaCredentials(
        api_key="nb_x", base_url="https://api.corp.example/api/v1", image_hosts=[trusted]
    )
    again = NanoBananaCredentials(api_key="nb_x", image_hosts=credentials.image_hosts)
    assert again.image_hosts == credentials.image_hosts
    addresses = Addresses(credentials.trusted_hosts, resolve=lambda *_: ["10.0.0.7"])
    with pytest.raises(AssertionError if allowed else ImageNotCopied):
        fetch_bytes(url, addresses, network)
    assert network.asked == ["10.0.0.7"] * allowed


@pytest.mark.parametrize(
    ("base_url", "url", "allowed"),
    [
        ("https://www.nananobanana.com/api/v1", "https://www.nananobanana.com/x", False),
        ("https://www.nananobanana.com/api/v1", "http://www.nananobanana.com/x", False),
        ("https://www.nananobanana.com:8443/api/v1", "https://www.nananobanana.com:8443/x", False),
        ("https://api.corp.example/api/v1", "https://api.corp.example/x", True),
        ("https://api.corp.example/api/v1", "http://api.corp.example/x", False),
        ("https://api.corp.example/api/v1", "https://api.corp.example:8443/x", False),
        ("https://api.corp.example:8443/api/v1", "https://api.corp.example:8443/x", True),
        ("http://127.0.0.1:4010/api/v1", "http://127.0.0.1:4010/x", True),
        ("http://127.0.0.1:4010/api/v1", "http://localhost:4010/x", True),
        ("http://localhost:4010/api/v1", "http://[::1]:4010/x", True),
        ("http://localhost:4010/api/v1", "http://localhost:4011/x", False),
        ("http://127.0.0.1:4010/api/v1", "https://127.0.0.1:4010/x", False),
    ],
)
def test_the_apis_own_host_is_exempt_at_its_scheme_and_port(
    base_url: str, url: str, allowed: bool
) -> None:
    network = NoNetwork()
    credentials = NanoBananaCredentials(api_key="nb_x", base_url=base_url)
    addresses = Addresses(credentials.trusted_hosts, resolve=lambda *_: ["127.0.0.7"])
    with pytest.raises(AssertionError if allowed else ImageNotCopied):
        fetch_bytes(url, addresses, network)
    assert network.asked == ["127.0.0.7"] * allowed


@pytest.mark.parametrize(
    "url",
    [
        "https://good.example\\@127.0.0.1/x",
        "https://good.example\\.127.0.0.1/x",
        "https:/\\127.0.0.1/x",
        "https:127.0.0.1/x",
        "//127.0.0.1/x",
        "https://good.example#@127.0.0.1\\x",
        "https://\u2488\u2489.example\u2044x/",
    ],
)
def test_an_address_is_read_in_one_way_only(url: str) -> None:
    network = NoNetwork()
    addresses = Addresses(resolve=lambda *_: ["127.0.0.1"])
    with pytest.raises(
        ImageNotCopied, match=r"not an https URL|good.example \(127.0.0.1\) is no public"
    ):
        fetch_bytes(url, addresses, network)
    assert network.asked == []


def test_a_proxy_that_drips_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-A: ")
        for _ in range(100):
            connection.sendall(b"a")
            time.sleep(0.05)

    began = time.monotonic()
    with RawServer(drip) as proxy, DOWNLOAD_TIMEOUT_SECONDS.use(0.5):
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(TransientDownloadError, match="did not arrive within 0.5 s"):
            fetch_bytes("https://pictures.example/x.png", Addresses())
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("members", [1_000, 100_000])
def test_members_with_nothing_in_them_take_little_time(members: int) -> None:
    body = gzip.compress(b"") * members + gzip.compress(PNG)
    reply = Reply(body, 200, {"Content-Encoding": "gzip"})
    began = time.process_time()
    with Scripted(lambda _: reply) as host:
        if members < 10_000:
            assert fetch_bytes(f"{host.url}/x.png", Addresses(["127.0.0.1"])) == PNG
        else:
            with pytest.raises(TransientDownloadError, match="broken or cut short"):
                fetch_bytes(f"{host.url}/x.png", Addresses(["127.0.0.1"]))
    assert time.process_time() - began < 3
