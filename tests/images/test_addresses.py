"""Where images are fetched from, and where never.

Nothing here leaves the loopback range: forbidden places are played by 127.0.0.2 and count connections,
names are resolved by the test, and whatever else is forbidden is asked of a network that never connects.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3
from networks import NoNetwork, fetch_bytes, proxy_of
from servers import Reply, Scripted, Seen
from urllib3.connection import HTTPConnection

from prefect_nanobanana import ImageNotCopied, InvalidInput, NanoBananaCredentials
from prefect_nanobanana._common.public import is_public
from prefect_nanobanana.images import _network
from prefect_nanobanana.images._addresses import Addresses
from prefect_nanobanana.images._body import IN_MEMORY_BYTES, Body
from prefect_nanobanana.images._download import (
    DOWNLOAD_TIMEOUT_SECONDS,
    MAX_REDIRECTS,
    Downloader,
    TransientDownloadError,
)
from prefect_nanobanana.sandbox.pictures import draw

PNG = draw("a cat", seed="1", longest=96)
NAME = "pictures.example"

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
FORBIDDEN = [
    *("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "::7f00:1"),
    *("10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "198.18.0.1"),
    *("fc00::1", "fd12::1", "fec0::1", "fe80::1", "169.254.1.1", "255.255.255.255", "240.0.0.1"),
    *("224.0.0.1", "ff02::1", "192.0.2.1", "2001:db8::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"),
    *("2002:a00:1::1", "2002:7f00:1::1", "2001:0:a00:1::1"),
    # Metadata services: AWS, Google and Azure; AWS over IPv6; Alibaba; Oracle; Azure's platform.
    *("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd20:ce::254", "fd00:42::42"),
    # Services inside of clouds, at addresses that are otherwise public: IBM, Google.
    *("161.26.0.10", "166.8.1.1", "166.11.255.255", "199.36.153.8"),
    # What newer registrations say is special, and older Pythons do not know.
    *(
        "3fff::1",
        "3fff:fff::1",
        "192.88.99.1",
        "5f00::1",
        "64:ff9b:1::808:808",
        "100::1",
        "100:0:0:1::1",
    ),
    *("2001:2::1", "2001:20::1", "192.0.0.8", "::ffff:168.63.129.16", "::ffff:192.88.99.1"),
]


def _only_the_first(address: Any) -> bool:
    """For tests: 127.0.0.1 is the internet, and everything else a network of one's own."""
    return str(address) == "127.0.0.1"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ssl.SSLContext]:
    """A certificate for NAME, and a world that trusts who signed it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield context


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", FORBIDDEN)
def test_addresses_that_are_never_connected_to(address: str) -> None:
    network, literal = NoNetwork(), f"[{address}]" if ":" in address else address
    with pytest.raises(ImageNotCopied, match="no public address.*image_hosts"):
        fetch_bytes(f"https://{literal}/x.png", Addresses(), network)
    named = Addresses(resolve=lambda *_: [address])
    with pytest.raises(ImageNotCopied, match=f"{NAME} .*no public address"):
        fetch_bytes(f"https://{NAME}/x.png", named, network)
    assert network.asked == []


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "[::1]"]
)
def test_this_machine_by_other_spellings(host: str) -> None:
    def as_the_system_does(host: str, _: int) -> list[str]:
        return ["127.0.0.1"] if host == "localhost" else [socket.inet_ntoa(socket.inet_aton(host))]

    network = NoNetwork()
    with pytest.raises(ImageNotCopied, match="no public address|Invalid IPv4 address"):
        fetch_bytes(f"https://{host}/x.png", Addresses(resolve=as_the_system_does), network)
    assert network.asked == []


def test_one_forbidden_address_among_others_is_enough() -> None:
    network = NoNetwork()
    with pytest.raises(ImageNotCopied, match="10.0.0.1"):
        fetch_bytes(f"https://{NAME}/", Addresses(resolve=lambda *_: ["8.8.8.8", "10.0.0.1"]), network)
    assert network.asked == []


def test_the_address_that_was_checked_is_connected_to(tls: ssl.SSLContext) -> None:
    """A name that resolves to another address each time, as an attacker's does."""
    found = [["127.0.0.2"], ["127.0.0.1"]]
    addresses = Addresses(resolve=lambda *_: found.pop(), is_public=_only_the_first)
    with (
        Scripted(lambda _: Reply(PNG), tls=tls) as host,
        Scripted(lambda _: Reply(b"secret"), "127.0.0.2") as inside,
    ):
        assert fetch_bytes(f"https://{NAME}:{host.port}/x.png", addresses) == PNG
        assert host.seen[0].headers["host"] == f"{NAME}:{host.port}"
        with pytest.raises(ImageNotCopied, match=rf"{NAME} \(127.0.0.2\) is no public address"):
            fetch_bytes(f"https://{NAME}:{inside.port}/x.png", addresses)
    assert (host.connections, inside.connections, found) == (1, 0, [])


def test_the_certificate_is_checked_against_the_name(tls: ssl.SSLContext) -> None:
    addresses = Addresses(resolve=lambda *_: ["127.0.0.1"], is_public=_only_the_first)
    with Scripted(lambda _: Reply(PNG), tls=tls) as host:
        with pytest.raises(TransientDownloadError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch_bytes(f"https://other.example:{host.port}/x.png", addresses)
        assert host.seen == []


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", ["127.0.0.2", "inside.example"])
def test_redirects_lead_nowhere_else(tls: ssl.SSLContext, scheme: str, name: str) -> None:
    where = {NAME: ["127.0.0.1"], "inside.example": ["127.0.0.2"]}
    addresses = Addresses(resolve=lambda host, _: where[host], is_public=_only_the_first)
    with Scripted(lambda _: Reply(b"secret"), "127.0.0.2") as inside:
        target = f"{scheme}://{name}:{inside.port}/latest/meta-data"
        with Scripted(lambda _: Reply(b"", 302, {"Location": target}), tls=tls) as host:
            with pytest.raises(ImageNotCopied, match=r"no public address|not https"):
                fetch_bytes(f"https://{NAME}:{host.port}/x.png", addresses)
        assert (len(host.seen), inside.connections) == (1, 0)


def test_redirects_are_bounded(tls: ssl.SSLContext) -> None:
    def onward(seen: Seen) -> Reply:
        number = int(seen.path.rpartition("/")[2])
        return Reply(b"", 302, {"Location": f"/{number - 1}"}) if number else Reply(PNG)

    addresses = Addresses(resolve=lambda *_: ["127.0.0.1"], is_public=_only_the_first)
    with Scripted(onward, tls=tls) as host:
        assert fetch_bytes(f"https://{NAME}:{host.port}/{MAX_REDIRECTS}", addresses) == PNG
        before = len(host.seen)
        with pytest.raises(ImageNotCopied, match="redirects"):
            fetch_bytes(f"https://{NAME}:{host.port}/99", addresses)
        assert len(host.seen) - before == MAX_REDIRECTS + 1


def test_another_address_is_tried_when_one_does_not_answer() -> None:
    with Scripted(lambda _: Reply(PNG)) as host:
        addresses = Addresses([NAME], resolve=lambda *_: ["127.0.0.3", "127.0.0.1"])
        assert fetch_bytes(f"http://{NAME}:{host.port}/x.png", addresses) == PNG


def test_names_without_an_address_may_get_one() -> None:
    def unknown(*_: Any) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(
        TransientDownloadError, match=f"{NAME} cannot be resolved: Name or service not known"
    ):
        fetch_bytes(f"https://{NAME}/x.png", Addresses(resolve=unknown))
    with pytest.raises(TransientDownloadError, match=f"{NAME} has no address"):
        fetch_bytes(f"https://{NAME}/x.png", Addresses(resolve=lambda *_: []))


def test_hosts_that_the_block_names_may_be_anywhere() -> None:
    credentials = NanoBananaCredentials(
        api_key="nb_x",
        base_url="https://api.corp.example/api/v1",
        image_hosts=[" Inside.Example ", "127.0.0.2"],
    )
    with Scripted(lambda _: Reply(PNG), "127.0.0.2") as inside:
        addresses = Addresses(credentials.trusted_hosts, resolve=lambda *_: ["127.0.0.2"])
        for host in ("127.0.0.2", "inside.example", "INSIDE.example."):
            assert fetch_bytes(f"http://{host}:{inside.port}/x.png", addresses) == PNG
        for elsewhere in ("elsewhere.example", "api.corp.example"):
            with pytest.raises(ImageNotCopied, match="not https"):
                fetch_bytes(f"http://{elsewhere}:{inside.port}/x.png", addresses)
        assert len(inside.seen) == 3


@pytest.mark.parametrize(
    "host", ["ftp://a.example", "a.example:x", "http://a/b", "a/b", "", "user@a.example", "a.example:"]
)
def test_image_hosts_are_hosts(host: str) -> None:
    with pytest.raises(ValueError, match="is not a host: give its name or address|image_hosts"):
        NanoBananaCredentials(api_key="nb_x", image_hosts=[host])


def test_image_hosts_may_be_addresses() -> None:
    hosts = ["10.0.0.7", "fd12::1", "[fd12::2]"]
    credentials = NanoBananaCredentials(api_key="nb_x", image_hosts=hosts)
    assert credentials.image_hosts == ["10.0.0.7", "fd12::1", "fd12::2"]
    Addresses(credentials.trusted_hosts).check("http", "[fd12::1]", 9000)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_behind_a_proxy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    def never(*_: Any) -> list[str]:
        raise AssertionError("the proxy resolves names")

    addresses = Addresses([NAME], resolve=never)
    with proxy_of(monkeypatch, variable) as proxy:
        assert fetch_bytes(f"http://{NAME}/x.png", addresses) == PNG
        assert proxy.seen[0].path == f"http://{NAME}/x.png"
        with pytest.raises(ImageNotCopied, match=r"169\.254\.169\.254 is no public address"):
            fetch_bytes("https://169.254.169.254/latest", addresses)
        assert proxy.connections == 1


def test_a_proxy_with_a_password_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = Reply(PNG, drip_seconds=0.02)
    with DOWNLOAD_TIMEOUT_SECONDS.use(0.5), Scripted(lambda _: reply) as proxy:
        monkeypatch.setenv("http_proxy", f"me:p%40ss@127.0.0.1:{proxy.port}")
        with pytest.raises(TransientDownloadError, match="did not arrive within 0.5 s"):
            fetch_bytes(f"http://{NAME}/x.png", Addresses([NAME]))
    assert proxy.seen[0].headers["proxy-authorization"] == "Basic bWU6cEBzcw=="


@pytest.mark.parametrize(
    "address", ["socks5://127.0.0.1:1080", "http://me:hu#sh@127.0.0.1:3128", "http://127.0.0.1:99999"]
)
def test_proxies_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("https_proxy", address)
    with pytest.raises(InvalidInput, match="HTTPS_PROXY or ALL_PROXY: .* HTTP proxy") as caught:
        Downloader(Addresses(), 1)
    assert "hu" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:70000/p?X-Amz-Signature=hush",
        "https://me:hush@127.0.0.1:99999/x.png",
        "https://me:hush@[::1/x.png",
        "https://a..b/x.png?X-Amz-Signature=hush",
        f"https://{'a' * 70}.example/x.png?X-Amz-Signature=hush",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ImageNotCopied) as caught:
        fetch_bytes(url, Addresses())
    assert "hush" not in str(caught.value)


def test_a_redirect_to_an_address_that_is_none() -> None:
    with Scripted(lambda _: Reply(b"", 302, {"Location": "https://[::1"})) as host:
        with pytest.raises(ImageNotCopied, match="is not an https URL, or leads to none"):
            fetch_bytes(host.url, Addresses(["127.0.0.1"]))


def test_a_password_is_not_told_to_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy_of(monkeypatch) as proxy:
        fetch_bytes(f"http://me:hush@{NAME}/x.png#part", Addresses([NAME]))
    assert proxy.seen[0].path == f"http://{NAME}/x.png"
    assert "hush" not in str(proxy.seen[0].headers)


def test_hosts_that_need_noproxy_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with proxy_of(monkeypatch) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        assert fetch_bytes(f"{host.url}/x.png", Addresses(["127.0.0.1"])) == PNG
        assert proxy.seen == []


def test_nothing_of_the_machine_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Scripted(lambda _: Reply(PNG)) as host:
        fetch_bytes(host.url.replace("http://", "http://user:pass@"), Addresses(["127.0.0.1"]))
    assert "authorization" not in host.seen[0].headers


@pytest.mark.parametrize(
    "reply",
    [
        Reply(PNG, drip_seconds=0.02),
        Reply(drip_headers=True, drip_seconds=0.02),
        Reply(PNG, stall_seconds=5),
        Reply(b"", 302, {"Location": "/again"}, stall_seconds=0.2),
    ],
    ids=["body", "headers", "stalled", "redirects"],
)
def test_hosts_that_take_their_time_meet_a_deadline(reply: Reply) -> None:
    started = time.monotonic()
    with (
        DOWNLOAD_TIMEOUT_SECONDS.use(0.5),
        Scripted(lambda _: reply) as host,
        pytest.raises(TransientDownloadError, match="did not arrive within 0.5 s"),
    ):
        fetch_bytes(host.url, Addresses(["127.0.0.1"]))
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-More: and more\r\n"),
    ],
    ids=["body", "continue", "trailers"],
)
def test_hosts_that_never_pause_meet_a_deadline(first: bytes, rest: bytes) -> None:
    """No socket ever waits for them, so that no time-out of one is met."""

    def chatter() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.sendall(first)
            until = time.monotonic() + 8
            while time.monotonic() < until:
                connection.sendall(rest * 500)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        talking = threading.Thread(target=chatter)
        talking.start()
        started = time.monotonic()
        late = pytest.raises(TransientDownloadError, match="did not arrive within 0.5 s")
        with DOWNLOAD_TIMEOUT_SECONDS.use(0.5), late:
            fetch_bytes(f"http://127.0.0.1:{listening.getsockname()[1]}/", Addresses(["127.0.0.1"]))
        assert time.monotonic() - started < 5
        talking.join()


def test_a_handshake_without_end_meets_the_deadline() -> None:
    with (
        DOWNLOAD_TIMEOUT_SECONDS.use(0.3),
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(TransientDownloadError, match="did not arrive"),
    ):
        fetch_bytes(f"https://127.0.0.1:{mute.getsockname()[1]}/x.png", Addresses(["127.0.0.1"]))


def test_a_deadline_concerns_its_own_thread_and_time() -> None:
    with _network.deadline(0.1):
        assert 0 < (_network._left(30) or 0) <= 0.1
    assert _network._left(30) == 30


class Watched(socket.socket):
    """Notes how much is asked for at once."""

    most = 0

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        Watched.most = max(Watched.most, nbytes or len(buffer))
        return super().recv_into(buffer, nbytes, flags)


def _watched(address: tuple[str, int], timeout: float | None) -> socket.socket:
    sock = Watched()
    sock.settimeout(timeout)
    sock.connect(address)
    return sock


def test_a_body_is_read_in_large_pieces() -> None:
    content = bytes(IN_MEMORY_BYTES)
    with Scripted(lambda _: Reply(content)) as host:
        assert fetch_bytes(host.url, Addresses(["127.0.0.1"]), _watched) == content
    assert Watched.most > IN_MEMORY_BYTES // 2


def test_a_connection_is_used_again_also_after_a_redirect() -> None:
    replies = [Reply(PNG), Reply(b"elsewhere", 302, {"Location": "/x"}), Reply(PNG)]
    with (
        Scripted(lambda _: replies.pop()) as host,
        closing(Downloader(Addresses(["127.0.0.1"]), 1)) as downloader,
    ):
        for _ in range(2):
            downloader.fetch(host.url).close()
        assert (len(host.seen), host.connections) == (3, 1)


def test_signatures_of_urls_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 logs them, and for S3 as before: this concerns images alone."""
    caplog.set_level("DEBUG")
    with Scripted(lambda _: Reply(PNG)) as host:
        fetch_bytes(f"{host.url}/x.png?X-Amz-Signature=hush", Addresses(["127.0.0.1"]))
        assert "hush" not in caplog.text
        urllib3.request("GET", f"{host.url}/shown")
    assert "/shown" in caplog.text


@pytest.mark.parametrize("said", [True, False])
def test_a_body_that_says_it_is_large_is_on_disk_from_its_start(
    monkeypatch: pytest.MonkeyPatch, said: bool
) -> None:
    sizes, go_to_disk = [], Body._go_to_disk

    def noted(body: Body) -> None:
        sizes.append(body.size)
        go_to_disk(body)

    monkeypatch.setattr(Body, "_go_to_disk", noted)
    content = PNG * (IN_MEMORY_BYTES // len(PNG) + 1)
    reply = Reply(content) if said else Reply(content, length=-1)
    with Scripted(lambda _: reply) as host:
        assert fetch_bytes(host.url, Addresses(["127.0.0.1"])) == content
    assert [size > IN_MEMORY_BYTES for size in sizes] == [not said]


GREEDY = """
import resource, sys
from prefect_nanobanana.images._addresses import Addresses
from prefect_nanobanana.images._download import Downloader
from concurrent.futures import ThreadPoolExecutor

downloader = Downloader(Addresses(["127.0.0.1"]), 4)

def fetch(path):
    try:
        downloader.fetch(sys.argv[1] + path).close()
    except Exception as error:
        return str(error)

fetch("/small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(4) as pool:
    said = [*pool.map(fetch, ["/endless"] * 4)]
assert all("is larger than 104857600 bytes" in each for each in said), said
assert fetch("/away") is None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_flat_whatever_a_host_sends() -> None:
    megabyte = bytes(1024 * 1024)
    endless = Reply(PNG, length=300 * len(megabyte), pieces=[megabyte] * 300)
    unsaid = Reply(PNG, length=-1, pieces=[megabyte] * 300)
    replies = {"/endless": [unsaid, unsaid, endless, endless]}
    replies["/away"] = [replace(unsaid, status=302, headers={"Location": "/small"})]
    with Scripted(lambda seen: replies[seen.path].pop() if seen.path in replies else Reply(PNG)) as host:
        done = subprocess.run(
            [sys.executable, "-c", GREEDY, host.url], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * (1 if sys.platform == "darwin" else 1024) < 30 * len(megabyte)


def test_an_unknown_urllib3_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were connections made elsewhere, nothing would be checked: so nothing is fetched."""
    monkeypatch.delattr(HTTPConnection, "_new_conn")
    with pytest.raises(TypeError, match="this version of urllib3 is not known"):
        Downloader(Addresses(), 1)
