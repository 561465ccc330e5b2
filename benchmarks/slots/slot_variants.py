"""Four ways to have pictures made for a list of prompts and copied to S3, side by side.

bench_slots.py runs each in a process of its own: it says that it is ready, waits to be told to go, and
then prints when it began, when it ended, and how many pictures it stored.
"""

# No `from __future__ import annotations` here: Prefect reads the annotations of flows and tasks.

import asyncio
import contextlib
import functools
import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import boto3
import httpx
from bench_servers import BUCKET, Work
from prefect import flow, task, unmapped
from prefect.concurrency.sync import concurrency
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


# (a) As people write it: Prefect's global limit around the request, in a task.


@task
def generate(prompt: str, work: dict[str, Any]) -> str:
    """Have a picture made; returns its address."""
    with concurrency(work["folder"], occupy=1, strict=True):
        return generate_once(prompt, work)


# (b) The same, with a semaphore of the process around the limit.


@task
def generate_in_turn(prompt: str, work: dict[str, Any]) -> str:
    """The same, in one of the process's own turns."""
    with _turns(work["slots"]), concurrency(work["folder"], occupy=1, strict=True):
        return generate_once(prompt, work)


@task
def copy(url: str, work: dict[str, Any]) -> str:
    """Copy a picture to S3; returns its key."""
    picture = _http().get(url).raise_for_status()
    key = f"{work['folder']}/images/{url.rpartition('/')[2]}"
    kind = picture.headers["content-type"]
    s3_client(work["s3_url"]).put_object(Bucket=BUCKET, Key=key, Body=picture.content, ContentType=kind)
    return key


@flow
def by_hand(prompts: list[str], work: dict[str, Any], in_turn: bool) -> int:
    """Map both tasks over the prompts; returns how many pictures are stored."""
    urls = (generate_in_turn if in_turn else generate).map(prompts, unmapped(work))
    return len(copy.map(urls, unmapped(work)).result())


def generate_once(prompt: str, work: dict[str, Any]) -> str:
    """Have a picture made; returns its address."""
    headers = {"authorization": f"Bearer {work['api_key']}"}
    answer = _http().post(f"{work['base_url']}/generate", json={"prompt": prompt}, headers=headers)
    return str(answer.raise_for_status().json()["imageUrls"][0])


@functools.cache
def _http() -> httpx.Client:
    unbound = httpx.Limits(max_connections=None)
    return httpx.Client(headers=AGENT, timeout=TIMEOUT_SECONDS, limits=unbound)


@functools.cache
def _turns(slots: int) -> contextlib.AbstractContextManager[Any]:
    return threading.Semaphore(slots)


# (c) and (e) Ours.


def bucket_at(s3_url: str) -> S3Bucket:
    """The benchmarks' bucket as a block."""
    return S3Bucket(
        bucket_name=BUCKET,
        credentials=MinIOCredentials(
            minio_root_user=USER,
            minio_root_password=SecretStr(PASSWORD),
            aws_client_parameters=AwsClientParameters(endpoint_url=s3_url),
        ),
    )


def ours(work: Work, runner: Any = None) -> dict[str, float]:
    """Call the flow of this package; returns how its prompts ended, and when its body was called."""
    body: list[float] = []
    options: dict[str, Any] = {
        "task_runner": runner,
        "on_running": [lambda _flow, _run, _state: body.append(time.monotonic())],
    }
    report = generate_images.with_options(**options)(
        prompts=list(work.prompts),
        generator=NanoBananaGenerator(
            credentials=NanoBananaCredentials(
                api_key=SecretStr(work.api_key),
                base_url=work.base_url,
                max_concurrent_requests=work.slots,
            )
        ),
        bucket=bucket_at(work.s3_url),
        batch=work.folder,
        fail_on="never",
    )
    return {"stored": report.stored, "unknown": report.unknown, "body": body[0]}


# (d) Without Prefect.


async def bare(work: Work) -> int:
    """Ask and copy from coroutines; returns how many pictures are stored."""
    slots = asyncio.Semaphore(work.slots)
    s3 = s3_client(work.s3_url)
    unbound = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(headers=AGENT, timeout=TIMEOUT_SECONDS, limits=unbound) as client:

        async def one(prompt: str) -> None:
            headers = {"authorization": f"Bearer {work.api_key}"}
            async with slots:
                answer = await client.post(
                    f"{work.base_url}/generate", json={"prompt": prompt}, headers=headers
                )
            url = answer.raise_for_status().json()["imageUrls"][0]
            picture = (await client.get(url)).raise_for_status()
            await asyncio.to_thread(
                s3.put_object,
                Bucket=BUCKET,
                Key=f"{work.folder}/images/{url.rpartition('/')[2]}",
                Body=picture.content,
                ContentType=picture.headers["content-type"],
            )

        return len(await asyncio.gather(*map(one, work.prompts)))


@functools.cache
def s3_client(url: str) -> "S3Client":
    """A client of the S3 server."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=USER,
        aws_secret_access_key=PASSWORD,
    )


@flow
def _nothing() -> None:
    """Do nothing."""


def main() -> None:
    """Do the work that is given as JSON."""
    work = Work(**json.loads(sys.argv[1]))
    if work.variant != "d":
        _nothing()  # of a process whose first flow this is, Prefect itself takes seconds more
    if work.variant in "ab":
        _turns(work.slots), s3_client(work.s3_url)  # made once, and not at once by the first tasks
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    found: dict[str, float]
    match work.variant:
        case "a" | "b":
            settings = {name: value for name, value in vars(work).items() if name != "prompts"}
            found = {"stored": by_hand(work.prompts, settings, in_turn=work.variant == "b")}
        case "d":
            found = {"stored": asyncio.run(bare(work))}
        case _:
            found = ours(work)
    print(json.dumps({"began": began, "ended": time.monotonic(), **found}), flush=True)


if __name__ == "__main__":
    main()
