"""Runs that are killed for real, at every step, and then run again: one charge per prompt.

The boundaries are counted, not listed: every request that a run sends to S3 or to the API is one, and
the process is killed just before the store or the API acts on it, and just after. A new step cannot
be forgotten, as it would send a request.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prefect.settings
import pytest
from prefect_aws import S3Bucket
from servers import FaultyS3, Reply, Seen

from prefect_nanobanana import NanoBananaGenerator, RunFailed, RunReport
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]
PROMPTS = ["a", "nude", "b"]
SCRIPT = Path(__file__).with_name("killed_run.py")
STEPS = 24
"""More than a run of three prompts takes; a run that was not killed shows that they were enough."""


class Killer:
    """Kills a run at its n-th request to S3: `before` the store sees it, or `after`."""

    def __init__(self, at: int, when: str) -> None:
        self._left = at
        self._when = when
        self._lock = threading.Lock()
        self._armed = threading.Event()
        self._process = 0
        self._killed = False

    def arm(self, process: int) -> None:
        """Say whom to kill."""
        self._process = process
        self._armed.set()

    def __call__(self, seen: Seen) -> Reply | None:
        if seen.method == "GET" and "list-type" not in seen.path:
            return None  # reading changes nothing
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return None
            self._killed = True
        if self._when == "before":
            self._kill()
            return Reply(reset=True)
        return None

    def after(self) -> None:
        """The store has acted on a request."""
        if self._killed and self._when == "after":
            self._kill()

    def _kill(self) -> None:
        assert self._armed.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)


@pytest.fixture
def zygote(prefect_server: None) -> Iterator[subprocess.Popen[str]]:
    """Starts runs in processes of their own, against the session's Prefect server."""
    with subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PREFECT_API_URL": str(prefect.settings.PREFECT_API_URL.value())},
    ) as process:
        yield process
        process.kill()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_step_and_run_again(
    when: str,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    s3: LocalS3,
    make_bucket: Any,
    zygote: subprocess.Popen[str],
) -> None:
    outcomes: list[str] = []
    for step in range(1, STEPS + 1):
        sandbox.account.credits = 100
        paid_before, posts_before = sandbox.account.charged, sandbox.account.posts
        with FaultyS3(s3.endpoint_url) as proxy:
            killer = Killer(step, when)
            proxy.fault = killer
            proxy.after = killer.after
            bucket = make_bucket(endpoint_url=proxy.url)
            finished = _run_and_kill(zygote, generator, bucket, killer)
            proxy.fault = lambda _: None
            report = _run_here(generator, bucket)
            charged = sandbox.account.charged - paid_before
            rows = sandbox.account.rows[-charged:] if charged else []
            asked = [row.prompt for row in rows]
            assert len(asked) == len(set(asked)), f"step {step} {when}: paid twice: {asked}"
            assert sandbox.account.posts - posts_before <= len(PROMPTS)
            assert report.unknown <= 1, "at most the one request in flight"
            assert report.stored + report.warnings + report.unknown == len(PROMPTS)
            accounted = report.credits_used + report.credits_reused
            assert charged - accounted in (0, report.unknown)
            folder = s3.folder / bucket.bucket_name / bucket.bucket_folder / "b/images"
            assert len(list(folder.iterdir())) == report.images == report.stored
            again = _run_here(generator, bucket)
            assert (again.credits_used, again.stored) == (0, report.stored)
            outcomes.append(f"{step}: {'finished' if finished else 'killed'}, {report.unknown} unknown")
            if finished:
                break
    else:
        pytest.fail(f"{STEPS} steps were not enough: raise STEPS. {outcomes}")
    assert len(outcomes) > 10, outcomes
    print(*outcomes, sep="\n")


def _run_and_kill(
    zygote: subprocess.Popen[str], generator: NanoBananaGenerator, bucket: S3Bucket, killer: Killer
) -> bool:
    """Run in a process of its own until it ends or is killed; say whether it ended well."""
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    context = {"include_secrets": True}
    settings = {
        "prompts": PROMPTS,
        "generator": generator.model_dump(mode="json", context=context),
        "bucket": bucket.model_dump(mode="json", context=context),
    }
    zygote.stdin.write(json.dumps(settings) + "\n")
    zygote.stdin.flush()
    killer.arm(int(zygote.stdout.readline()))
    return int(zygote.stdout.readline()) == 0


def _run_here(generator: NanoBananaGenerator, bucket: S3Bucket) -> RunReport:
    try:
        return generate_images(
            prompts=list(PROMPTS), generator=generator, bucket=bucket, batch="b", fail_on="never"
        )
    except RunFailed as error:
        return error.report  # type: ignore[no-any-return]
