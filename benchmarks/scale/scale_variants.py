"""What bench_scale.py measures, each in a process of its own.

It says that it is ready, waits to be told to go, and then prints what the work took: seconds of wall and
of CPU, kilobytes of memory before and at the peak.
"""

# No `from __future__ import annotations` here: Prefect reads the annotations of flows and tasks.

import asyncio
import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import httpx
from bench_servers import BUCKET
from prefect import flow, task, unmapped
from prefect_aws import MinIOCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr

from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator
from prefect_nanobanana.flows import generate_images

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

USER, PASSWORD = "bench", "bench-secret"
TIMEOUT_SECONDS = 300.0
AGENT = {"user-agent": "Mozilla/5.0"}  # the picture host refuses those of libraries
TASK_RUNS = 2
"""Of each prompt: one that asks, and one that copies."""


@dataclass(frozen=True)
class Work:
    """What one process is to do.

    Attributes:
        variant: Which of the ways to do it.
        slots: How many requests the account may have open at once.
        base_url: Where the API is.
        api_key: The account's key.
        s3_url: Where the S3 server is.
        folder: Where in the bucket the pictures go; also the name of the batch.
        first: The number of the first prompt.
        count: How many prompts there are.
    """

    variant: str
    slots: int
    base_url: str
    api_key: str
    s3_url: str
    folder: str
    first: int
    count: int

    @property
    def prompts(self) -> list[str]:
        """What to ask for."""
        return [f"prompt {n}" for n in range(self.first, self.first + self.count)]


def main() -> None:
    """Do the work that is given as JSON."""
    work = Work(**json.loads(sys.argv[1]))
    do = {"ours": ours, "empty": empty, "map": by_hand, "bare": bare}[work.variant]
    prepare(work)
    print("ready", flush=True)
    sys.stdin.readline()
    began, cpu, before = time.monotonic(), time.process_time(), resident_kb()
    done = do(work)
    print(
        json.dumps(
            {
                "began": began,
                "ended": time.monotonic(),
                "cpu": time.process_time() - cpu,
                "before_kb": before,
                "peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                "done": done,
            }
        ),
        flush=True,
    )


def prepare(work: Work) -> None:
    """Import and make what the first use would, so that it counts for no prompt."""
    if work.variant != "bare":
        _nothing_flow(2)
    if work.variant == "map":
        _s3(work.s3_url)


def resident_kb() -> int:
    """The memory of this process that is in use now, in kilobytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


# Ours.


def ours(work: Work) -> int:
    """Run the flow; returns how many pictures are stored."""
    report = generate_images(
        prompts=list(work.prompts),
        generator=NanoBananaGenerator(
            credentials=NanoBananaCredentials(
                api_key=SecretStr(work.api_key),
                base_url=work.base_url,
                max_concurrent_requests=work.slots,
            )
        ),
        bucket=S3Bucket(
            bucket_name=BUCKET,
            credentials=MinIOCredentials(
                minio_root_user=USER,
                minio_root_password=SecretStr(PASSWORD),
                aws_client_parameters=AwsClientParameters(endpoint_url=work.s3_url),
            ),
        ),
        batch=work.folder,
        fail_on="never",
    )
    return report.stored


# An empty flow with the same number of task runs.


@task
def nothing(prompt: str) -> None:
    """Do nothing."""


@flow
def _nothing_flow(task_runs: int) -> None:
    nothing.map([f"prompt {n}" for n in range(task_runs)]).wait()


def empty(work: Work) -> int:
    """Run a flow whose tasks do nothing."""
    _nothing_flow(work.count * TASK_RUNS)
    return work.count


# By hand: two tasks and `.map`, no ledger.


@task
def ask(prompt: str, base_url: str, key: str) -> str:
    """Have a picture made; returns its address."""
    answer = _http().post(
        f"{base_url}/generate",
        json={"prompt": prompt},
        headers={"authorization": f"Bearer {key}"},
    )
    return str(answer.raise_for_status().json()["imageUrls"][0])


@task
def copy(url: str, s3_url: str, folder: str) -> str:
    """Copy a picture to S3; returns its key."""
    picture = _http().get(url).raise_for_status()
    key = f"{folder}/images/{url.rpartition('/')[2]}"
    _s3(s3_url).put_object(
        Bucket=BUCKET, Key=key, Body=picture.content, ContentType=picture.headers["content-type"]
    )
    return key


@flow
def _by_hand(prompts: list[str], base_url: str, key: str, s3_url: str, folder: str) -> int:
    urls = ask.map(prompts, unmapped(base_url), unmapped(key))
    return len(copy.map(urls, unmapped(s3_url), unmapped(folder)).result())


def by_hand(work: Work) -> int:
    """Run it with as many threads as there are slots."""
    from prefect.task_runners import ThreadPoolTaskRunner

    threads: Any = ThreadPoolTaskRunner(max_workers=work.slots)
    options: Any = _by_hand.with_options(task_runner=threads)
    return int(options(work.prompts, work.base_url, work.api_key, work.s3_url, work.folder))


# Without Prefect.


def bare(work: Work) -> int:
    """Ask and copy from coroutines."""
    return asyncio.run(_bare(work))


async def _bare(work: Work) -> int:
    slots = asyncio.Semaphore(work.slots)
    s3 = _s3(work.s3_url)
    unbound = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(headers=AGENT, timeout=TIMEOUT_SECONDS, limits=unbound) as client:

        async def one(prompt: str) -> None:
            headers = {"authorization": f"Bearer {work.api_key}"}
            async with slots:
                answer = await client.post(
                    f"{work.base_url}/generate", json={"prompt": prompt}, headers=headers
                )
            url = answer.raise_for_status().json()["imageUrls"][0]
            async with slots:
                picture = (await client.get(url)).raise_for_status()
                await asyncio.to_thread(
                    s3.put_object,
                    Bucket=BUCKET,
                    Key=f"{work.folder}/images/{url.rpartition('/')[2]}",
                    Body=picture.content,
                    ContentType=picture.headers["content-type"],
                )

        return len(await asyncio.gather(*map(one, work.prompts)))


_clients: dict[str, Any] = {}


def _http() -> httpx.Client:
    found: httpx.Client = _clients.setdefault(
        "http", httpx.Client(headers=AGENT, timeout=TIMEOUT_SECONDS)
    )
    return found


def _s3(url: str) -> "S3Client":
    if url not in _clients:
        _clients[url] = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=USER,
            aws_secret_access_key=PASSWORD,
        )
    found: S3Client = _clients[url]
    return found


if __name__ == "__main__":
    main()
