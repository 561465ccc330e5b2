"""Networks for tests of where images are fetched from: none, and one behind a proxy."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from servers import Reply, Scripted

from prefect_nanobanana.images._addresses import Addresses
from prefect_nanobanana.images._download import Downloader
from prefect_nanobanana.images._network import Connect
from prefect_nanobanana.sandbox.pictures import draw

PNG = draw("a cat", seed="1", longest=96)


class NoNetwork:
    """Counts who wants to connect, and connects nobody."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, address: tuple[str, int], timeout: float | None) -> socket.socket:
        self.asked.append(address[0])
        raise AssertionError(f"a connection to {address} was asked for")


def fetch_bytes(url: str, addresses: Addresses, connect: Connect = socket.create_connection) -> bytes:
    """Fetch an image."""
    with (
        closing(Downloader(addresses, 1, connect)) as downloader,
        closing(downloader.fetch(url)) as body,
    ):
        return body.file.read()


@contextmanager
def proxy_of(monkeypatch: pytest.MonkeyPatch, name: str = "http_proxy") -> Iterator[Scripted]:
    """A proxy that answers every request with a picture."""
    with Scripted(lambda _: Reply(PNG)) as proxy:
        monkeypatch.setenv(name, proxy.url)
        yield proxy
