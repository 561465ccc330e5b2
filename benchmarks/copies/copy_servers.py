"""The servers that pictures are copied from and to, all on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import boto3
from bench_servers import line, running
from copy_variants import BUCKET
from radosgw import MISSING, PACKAGES, RadosGateway

from prefect_nanobanana.sandbox.s3 import LocalS3

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

MEMORY_BYTES = 4 * 1024**3
"""What radosgw's store may hold: a run's pictures, and what is not freed yet of those before."""


class Store:
    """An S3 server.

    Attributes:
        name: What tables call it.
        url: Where it is.
        provider: What rclone calls it.
    """

    def __init__(self, name: str, url: str, provider: str, access_key: str, secret_key: str) -> None:
        self.name = name
        self.url = url
        self.provider = provider
        self.access_key = access_key
        self.secret_key = secret_key
        self._gateway: RadosGateway | None = None
        self._s3 = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
        )
        self._s3.create_bucket(Bucket=BUCKET)

    @classmethod
    def of(cls, gateway: RadosGateway) -> Store:
        """The one that a gateway of Ceph is."""
        store = cls("radosgw", gateway.endpoint_url, "Ceph", *gateway.user("bench"))
        store._gateway = gateway
        return store

    def keys(self, folder: str) -> list[str]:
        """The keys in a folder."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{folder}/")
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, key: str) -> bytes:
        """An object's bytes."""
        return self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def empty(self, folder: str) -> None:
        """Delete a folder, and free what it took."""
        keys = self.keys(folder)
        for start in range(0, len(keys), 1000):
            some: list[ObjectIdentifierTypeDef] = [{"Key": key} for key in keys[start : start + 1000]]
            self._s3.delete_objects(Bucket=BUCKET, Delete={"Objects": some})
        if self._gateway is not None:
            self._gateway.forget_deleted()


@contextmanager
def stores(home: Path, names: Iterable[str]) -> Iterator[list[Store]]:
    """Run the S3 servers with these names.

    Raises:
        RuntimeError: If one is not installed.
    """
    with ExitStack() as stack:
        started = []
        for name in names:
            if name == "rclone":
                local = stack.enter_context(LocalS3(home / "rclone"))
                started.append(
                    Store(name, local.endpoint_url, "Rclone", local.access_key, local.secret_key)
                )
            elif MISSING:
                raise RuntimeError(f"radosgw needs {', '.join(MISSING)}: install {PACKAGES}")
            else:
                gateway = RadosGateway(home / "radosgw", MEMORY_BYTES)
                started.append(Store.of(stack.enter_context(gateway)))
        yield started


@dataclass(frozen=True)
class Way:
    """How a run reaches its servers: directly, or with a wait before each answer.

    Attributes:
        source_url: Where the pictures are.
        api_url: Where the image API is that names them.
        s3_urls: Where the S3 servers are, by their names.
    """

    source_url: str
    api_url: str
    s3_urls: Mapping[str, str]


class Machines:
    """Starts what is needed on the way, in processes of their own.

    Args:
        stack: Ends them.
        env: Their environment.
        log: Where they write what they say.
    """

    def __init__(self, stack: ExitStack, env: Mapping[str, str], log: IO[str]) -> None:
        self._stack = stack
        self._env = env
        self._log = log

    def way(self, source_url: str, started: Iterable[Store], wait: float | None) -> Way:
        """Start the proxies and the image API; without a wait, there are no proxies at all."""
        urls = {store.name: store.url for store in started}
        if wait is not None:
            source_url = self._proxy(source_url, wait)
            urls = {name: self._proxy(url, wait) for name, url in urls.items()}
        return Way(source_url, self._start("copy_api.py", source_url), urls)

    def _proxy(self, url: str, wait: float) -> str:
        port = self._start("delay_proxy.py", str(wait), url.rpartition(":")[2])
        return f"http://127.0.0.1:{port}"

    def _start(self, name: str, *arguments: str) -> str:
        command = [sys.executable, str(Path(__file__).with_name(name)), *arguments]
        return line(self._stack.enter_context(running(command, self._env, self._log, talks=True)))


@contextmanager
def source(folder: Path, env: Mapping[str, str], log: IO[str]) -> Iterator[str]:
    """Serve the pictures; says where they are."""
    command = [sys.executable, str(Path(__file__).with_name("copy_source.py")), str(folder)]
    with running(command, env, log, talks=True) as process:
        yield line(process)
