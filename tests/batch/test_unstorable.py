"""A run that cannot store what it buys stops buying, whatever the store says; what is paid is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flow_checks import statuses
from memory_s3 import MemoryS3
from servers import Reply, Seen, s3_error

from prefect_nanobanana import NanoBananaGenerator, RunFailed, RunReport, StorageOptions
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]


@pytest.fixture
def store() -> Iterator[MemoryS3]:
    with MemoryS3() as server:
        yield server


@pytest.fixture
def go(
    generator: NanoBananaGenerator, make_bucket: Callable[..., Any], store: MemoryS3, sandbox: Sandbox
) -> Run:
    """Runs twelve prompts against the store."""
    block = make_bucket(endpoint_url=store.url, bucket_folder="f")
    block.credentials.aws_client_parameters.config = {"retries": {"total_max_attempts": 1}}
    sandbox.latency = (0.15, 0.15)

    def run(*prompts: str, batch: str = "b") -> RunReport:
        try:
            report = generate_images(
                prompts=list(prompts or "abcdefghijkl"),
                generator=generator,
                bucket=block,
                batch=batch,
                storage=StorageOptions(retry_for_seconds=0.1),
            )
        except RunFailed as error:
            report = error.report
        assert isinstance(report, RunReport)
        return report

    return run


def _of_images(seen: Seen) -> bool:
    return seen.method == "PUT" and "/images/" in seen.path


FINAL = {
    "no such method": s3_error(405, "MethodNotAllowed"),
    "a length": s3_error(411, "MissingContentLength"),
    "an odd one": s3_error(400, "InvalidRequest"),
    "a teapot": Reply(b"short and stout", 418),
    "always busy": s3_error(503, "SlowDown"),
    "always broken": Reply(b"", 500),
    "a full proxy": Reply(b"<html><title>413</title>", 413),
    "a quota": s3_error(403, "QuotaExceeded"),
    "gone at once": Reply(reset=True),
}


@pytest.mark.parametrize("case", FINAL)
def test_three_refusals_in_a_row_stop_the_buying(
    go: Run, store: MemoryS3, sandbox: Sandbox, case: str
) -> None:
    store.refuse = lambda seen: FINAL[case] if _of_images(seen) else None
    report = go()
    assert report.stored == 0
    assert report.skipped >= 5
    assert report.credits_used == sandbox.account.charged == report.failed
    assert any("nothing more is bought" in str(o.message) for o in report.outcomes)
    store.refuse = lambda _: None
    again = go()
    assert statuses(again) == ["stored"] * 12
    assert sandbox.account.charged == 12
