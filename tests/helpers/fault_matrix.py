"""What each fault does to credits, requests and pictures: real HTTP, real S3, the real flow.

`make fault-matrix` runs every cell and prints the table that stands in docs/credits.md; test_matrix.py
runs the same cells and compares. Each cell is a batch of three prompts, of which one meets the fault,
and then the same batch once more.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect_aws import MinIOCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr
from servers import FaultyS3, Reply, Seen, s3_error

from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator, RunFailed, RunReport
from prefect_nanobanana.batch._timing import TIMING
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

COLUMNS = ("sync", "async submit", "async poll", "stream", "stream, id told")
FAULTS = {
    "refused": "the connection is refused",
    "reset_before": "reset before the request is read",
    "reset_after": "reset after it was read",
    "cut": "the body is cut",
    "stall": "no answer before the time-out",
    "400": "400",
    "401": "401",
    "402": "402",
    "403": "403",
    "429": "429 without Retry-After",
    "429_seconds": "429, Retry-After in seconds",
    "429_date": "429, Retry-After as a date",
    "500": "500",
    "502": "502 as HTML",
    "503": "503, server_busy",
    "bad_json": "bad JSON",
    "empty": "an empty body",
    "warning": "a safety warning",
    "failed": "a failed generation",
}
STORE_FAULTS = {
    "SlowDown": "503 SlowDown",
    "500": "500",
    "reset": "the connection is reset",
    "denied": "access is lost in mid-run",
}
STORE_COLUMNS = ("record", "image")
PROMPTS = ("one", "two", "three")


def run_cell(s3: LocalS3, column: str, fault: str) -> str:
    """Run the batch twice, the first time with a fault of the API; say what came of it."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(
            Sandbox(picture_pixels=32, stream_ids=column.endswith("told"), latency=0.05)
        )
        proxy = stack.enter_context(FaultyS3(s3.endpoint_url))
        if fault == "refused":
            _refuse(sandbox, proxy, polls=column == "async poll")
        elif column == "async poll" and fault not in ("warning", "failed"):
            sandbox.poll_faults.queue(fault)
        else:
            sandbox.faults.queue(None, fault)
        generator = NanoBananaGenerator(
            credentials=NanoBananaCredentials(
                api_key=SecretStr(sandbox.api_key),
                base_url=sandbox.base_url,
                request_timeout_seconds=3 if fault == "stall" else 20,
            ),
            mode=column.split()[0].rstrip(","),
        )
        return _twice(sandbox, generator, _bucket(s3, proxy))


def run_store_cell(s3: LocalS3, column: str, fault: str) -> str:
    """The same with a fault of S3, while it writes a record or an image."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(picture_pixels=32, latency=0.05))
        proxy = stack.enter_context(FaultyS3(s3.endpoint_url))
        seen: list[str] = []

        def meet(request: Seen) -> Reply | None:
            if request.method != "PUT" or f"/{column}s/" not in request.path:
                return None
            if fault == "denied":
                return _deny(request)
            seen.append(request.path)
            if len(seen) != 2:
                return None
            return Reply(reset=True) if fault == "reset" else _ANSWERS[fault]

        def _deny(request: Seen) -> Reply | None:
            """Access is lost once the first prompt's answer is recorded, or its image is stored."""
            if not seen:
                if column == "image" or b'"generated"' in request.body:
                    seen.append(request.path)
                return None
            while column == "image" and sandbox.account.charged < len(PROMPTS):
                time.sleep(0.01)  # so that it is known how many were asked by then
            return s3_error(403, "AccessDenied")

        # Who may not write will not be let in by waiting.
        patience = replace(TIMING.get(), write_again_for=1.0 if fault == "denied" else 60.0)
        stack.enter_context(TIMING.use(patience))
        proxy.fault = meet
        generator = NanoBananaGenerator(
            credentials=NanoBananaCredentials(
                api_key=SecretStr(sandbox.api_key), base_url=sandbox.base_url
            )
        )

        def well_again() -> None:
            proxy.fault = lambda _: None

        return _twice(sandbox, generator, _bucket(s3, proxy), well_again)


_ANSWERS = {"SlowDown": s3_error(503, "SlowDown"), "500": s3_error(500, "InternalError")}


def _twice(
    sandbox: Sandbox,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    between: Callable[[], None] = lambda: None,
) -> str:
    first = _run(generator, bucket)
    charged, posts = sandbox.account.charged, sandbox.account.posts
    told = f"{_counts(first)}; {charged} charged, {posts} sent"
    between()
    again = _run(generator, bucket)
    more = sandbox.account.posts - posts
    if more or _counts(again) != _counts(first):
        told += f"; again: {_counts(again)}, {more} sent"
    _check(sandbox, first, again)
    return told


def _check(sandbox: Sandbox, first: RunReport, again: RunReport) -> None:
    """What must hold in every cell."""
    paid_for = Counter(row.prompt for row in sandbox.account.rows if row.credits)
    assert max(paid_for.values(), default=0) <= 1, f"paid twice: {paid_for}"
    for report in (first, again):
        lost = (report.balance_before or 0) - (report.balance_after or 0)
        assert 0 <= lost - report.credits_used <= report.credits_at_risk
        assert report.credits_of_others == 0
    accounted = again.credits_used + again.credits_reused
    at_worst = sum(o.credits_at_risk for o in again.outcomes if o.status == "unknown")
    assert accounted <= sandbox.account.charged <= accounted + at_worst
    assert again.stored == len({i.sha256 for o in again.outcomes for i in o.images})


def _run(generator: NanoBananaGenerator, bucket: S3Bucket) -> RunReport:
    try:
        return generate_images(prompts=list(PROMPTS), generator=generator, bucket=bucket, batch="b")
    except RunFailed as error:
        return error.report  # type: ignore[no-any-return]


def _counts(report: RunReport) -> str:
    counts = Counter(outcome.status for outcome in report.outcomes)
    return ", ".join(
        f"{counts[s]} {s}" for s in ("stored", "warning", "failed", "unknown", "skipped") if counts[s]
    )


def _refuse(sandbox: Sandbox, proxy: FaultyS3, *, polls: bool) -> None:
    """Refuse connections for a moment, just as the first request, or the first poll, is to leave."""
    state = b'"submitted"' if polls else b'"asked"'
    away: list[threading.Timer] = []

    def go_away(request: Seen) -> None:
        if state in request.body and not away:
            sandbox.go_away()
            away.append(threading.Timer(0.3, sandbox.come_back))
            away[0].start()

    proxy.fault = go_away


def _bucket(s3: LocalS3, proxy: FaultyS3) -> S3Bucket:
    return S3Bucket(
        bucket_name="pictures",
        bucket_folder=f"m-{uuid.uuid4().hex[:8]}",
        credentials=MinIOCredentials(
            minio_root_user=s3.access_key,
            minio_root_password=SecretStr(s3.secret_key),
            aws_client_parameters=AwsClientParameters(endpoint_url=proxy.url),
        ),
    )


def table(cell: Callable[[str, str], str], columns: tuple[str, ...], rows: dict[str, str]) -> str:
    """The matrix as markdown."""
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for fault, name in rows.items():
        lines.append(f"| {name} | " + " | ".join(cell(column, fault) for column in columns) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run all cells and print the tables."""
    from conftest import BUCKET, SCRATCH, harness, quick

    with harness(), quick(), LocalS3(SCRATCH / "s3") as s3:
        s3.make_bucket(BUCKET)
        print(table(lambda column, fault: run_cell(s3, column, fault), COLUMNS, FAULTS))
        print()
        print(
            table(lambda column, fault: run_store_cell(s3, column, fault), STORE_COLUMNS, STORE_FAULTS)
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()


__all__: list[Any] = ["COLUMNS", "FAULTS", "run_cell", "run_store_cell", "table"]
