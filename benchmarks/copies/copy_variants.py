"""Ways to copy pictures from their addresses into S3, and the limits: each run in a process of its own.

bench_copy.py starts it: it imports what it needs, copies one picture, says that it is ready, waits to be
told to go, and then prints how long it took, and in how much CPU time and memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from copy_pictures import WARM_UP

# Everything else is imported where it is used: each process holds what its variant needs, and no more.
if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from prefect_aws import S3Bucket

    from prefect_nanobanana.s3._store import ObjectStore

THREADS = 16
BUCKET = "pictures"
HELD = 16
"""So many pictures are in memory to be uploaded again and again: more than the CPU's caches hold."""
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Work:
    """What one process is to do.

    Attributes:
        variant: Which of the ways to do it.
        source_url: Where the pictures are.
        s3_url: Where the S3 server is.
        provider: What rclone calls the S3 server.
        access_key: Of the S3 server.
        secret_key: Of the S3 server.
        folder: Where in the bucket the copies go.
        names: The pictures' names.
        api_url: Where the image API is, for the whole flow.
    """

    variant: str
    source_url: str
    s3_url: str
    provider: str
    access_key: str
    secret_key: str
    folder: str
    names: list[str] = field(default_factory=list)
    api_url: str = ""

    def url(self, name: str) -> str:
        """Where a picture is."""
        return f"{self.source_url}/{name}.png"

    def key(self, name: str) -> str:
        """Where it goes."""
        return f"{self.folder}/{name}.png"


Run = Callable[[list[str]], Any]
"""Copies the pictures with these names."""


# (a) and (b) As people write it.


def sequential(work: Work, _: ExitStack) -> Run:
    """One picture after the other."""
    one = _by_hand(work)

    def run(names: list[str]) -> None:
        for name in names:
            one(name)

    return run


def pool(work: Work, _: ExitStack) -> Run:
    """The same in threads, with one client for all of them."""
    return _in_threads(_by_hand(work))


def _by_hand(work: Work) -> Callable[[str], None]:
    import requests

    s3 = _s3(work)

    def one(name: str) -> None:
        image = requests.get(work.url(name), timeout=60)
        image.raise_for_status()
        s3.put_object(Bucket=BUCKET, Key=work.key(name), Body=image.content, ContentType="image/png")

    return one


# (c) rclone.


def rclone(work: Work, stack: ExitStack) -> Run:
    """One command for all pictures; returns the most memory it had."""
    import tempfile

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    prefix = "RCLONE_CONFIG_STORE_"
    env = {
        **os.environ,
        f"{prefix}TYPE": "s3",
        f"{prefix}PROVIDER": work.provider,
        f"{prefix}ENDPOINT": work.s3_url,
        f"{prefix}ACCESS_KEY_ID": work.access_key,
        f"{prefix}SECRET_ACCESS_KEY": work.secret_key,
    }

    def run(names: list[str]) -> int:
        urls = folder / "urls.csv"
        urls.write_text("".join(f"{work.url(name)},{name}.png\n" for name in names))
        command = [str(Path(sys.executable).with_name("rclone")), "copyurl", "--config", os.devnull]
        command += ["--transfers", str(THREADS), "--urls", str(urls)]
        with subprocess.Popen([*command, f"STORE:{BUCKET}/{work.folder}"], env=env) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, _memory("VmHWM", process.pid))
                time.sleep(LOOK_SECONDS)
        if process.returncode:
            raise RuntimeError(f"rclone ended with {process.returncode}")
        return peak

    return run


# (d) Our copy on its own.


def ours(work: Work, stack: ExitStack) -> Run:
    """Copies from as many threads as the flow has."""
    from prefect_nanobanana.images import Copier
    from prefect_nanobanana.s3._store import ObjectStore

    bucket = ObjectStore(_block(work))
    _learn(bucket)
    copier = stack.enter_context(
        Copier.for_bucket(bucket, ["127.0.0.1"], expected_images=len(work.names))
    )

    def one(name: str) -> None:
        copier.copy(work.url(name), f"{work.folder}/{name}", {"prompt": name, "batch": work.folder})

    return _in_threads(one, Copier.THREADS)


def _learn(bucket: ObjectStore) -> None:
    """Learn whether the store honours conditional writes, as a flow does with its first prompt."""
    from prefect_nanobanana.batch import Ledger
    from prefect_nanobanana.batch._record import Record
    from prefect_nanobanana.models import ImagePrompt, ImageRequest

    prompt = ImagePrompt(prompt=WARM_UP)
    request = ImageRequest(prompt=WARM_UP, model="m", aspect_ratio="1:1", quantity=1)
    ledger = Ledger(bucket, WARM_UP)
    record = Record(key="0" * 24, prompt=prompt, request=request)
    ledger.claim(record)
    ledger.probe(record)


# (e) Our whole flow.


def flow(work: Work, _: ExitStack) -> Run:
    """The flow, with an API that has all images ready: task runs, records, thumbnails and a gallery."""
    from pydantic import SecretStr

    from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator
    from prefect_nanobanana.flows import generate_images

    credentials = NanoBananaCredentials(
        api_key=SecretStr("nb_bench"),
        base_url=work.api_url,
        max_concurrent_requests=THREADS,
        image_hosts=[f"http://{urlsplit(work.source_url).netloc}"],
    )
    generator = NanoBananaGenerator(credentials=credentials)
    bucket = _block(work)

    def run(names: list[str]) -> None:
        batch = WARM_UP if names == [WARM_UP] else "all"
        generate_images(prompts=[*names], generator=generator, bucket=bucket, batch=batch)

    return run


# (f) and (g) The limits.


def download(work: Work, stack: ExitStack) -> Run:
    """Read all pictures, and drop them."""
    import httpx

    client = stack.enter_context(httpx.Client(trust_env=False))

    def one(name: str) -> None:
        with client.stream("GET", work.url(name)) as response:
            response.raise_for_status()
            for _ in response.iter_raw():
                pass

    return _in_threads(one)


def upload(work: Work, _: ExitStack) -> Run:
    """Upload pictures that are in memory."""
    import itertools

    import httpx
    from botocore.config import Config

    s3 = _s3(work, Config(max_pool_connections=THREADS))
    held = work.names[:HELD]
    with httpx.Client(trust_env=False) as client:
        bodies = [client.get(work.url(name)).raise_for_status().content for name in held]
    turn = itertools.cycle(bodies)

    def one(name: str) -> None:
        s3.put_object(Bucket=BUCKET, Key=work.key(name), Body=next(turn), ContentType="image/png")

    return _in_threads(one)


VARIANTS = {"a": sequential, "b": pool, "c": rclone, "d": ours, "e": flow, "f": download, "g": upload}


def _in_threads(one: Callable[[str], None], threads: int = THREADS) -> Run:
    def run(names: list[str]) -> None:
        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(one, names))

    return run


def _s3(work: Work, config: Any = None) -> S3Client:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=work.s3_url,
        region_name="us-east-1",
        aws_access_key_id=work.access_key,
        aws_secret_access_key=work.secret_key,
        config=config,
    )


def _block(work: Work) -> S3Bucket:
    from prefect_aws import MinIOCredentials, S3Bucket
    from prefect_aws.client_parameters import AwsClientParameters
    from pydantic import SecretStr

    return S3Bucket(
        bucket_name=BUCKET,
        bucket_folder=work.folder,
        credentials=MinIOCredentials(
            minio_root_user=work.access_key,
            minio_root_password=SecretStr(work.secret_key),
            aws_client_parameters=AwsClientParameters(endpoint_url=work.s3_url),
        ),
    )


def _memory(name: str, pid: int | str = "self") -> int:
    """Bytes of memory, as `VmRSS` or `VmHWM`, the most so far; 0 of a process that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else 0


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    """Do the work that is given as JSON."""
    work = Work(**json.loads(sys.argv[1]))
    with ExitStack() as stack:
        run = VARIANTS[work.variant](work, stack)
        idle = run([WARM_UP])
        print("ready", flush=True)
        sys.stdin.readline()
        Path("/proc/self/clear_refs").write_text("5")  # the most memory so far is forgotten
        idle = idle or _memory("VmRSS")
        cpu, began = _cpu_seconds(), time.monotonic()
        peak = run(work.names)
        seconds = time.monotonic() - began
        result = {
            "seconds": seconds,
            "cpu_seconds": _cpu_seconds() - cpu,
            "idle_bytes": idle,
            "peak_bytes": peak or _memory("VmHWM"),
        }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
