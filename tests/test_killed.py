"""Runs that are killed for real, at every step and at random, and then run again: one charge per prompt.

The boundaries are counted, not listed: every request of a run that changes something, at S3 or at the
API, is one, and so is every poll; the process is killed just before the server acts on it, and just
after. A new step cannot be forgotten, as it would send a request.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
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
STEPS = 60
"""More than a run of three prompts takes; a run that was not killed shows that they were enough."""
AT_RANDOM = 8


class Killer:
    """Kills a run at its n-th step: `before` the server sees the request, or `after` it has acted."""

    def __init__(self, at: int, when: str) -> None:
        self._left = at
        self._when = when
        self._lock = threading.Lock()
        self._armed = threading.Event()
        self._process = 0
        self.killed = False

    def arm(self, process: int) -> None:
        """Say whom to kill."""
        self._process = process
        self._armed.set()

    def __call__(self, seen: Seen) -> Reply | None:
        if seen.method == "GET" and "list-type" not in seen.path and "?id=" not in seen.path:
            return None  # reading changes nothing
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return None
            self.killed = True
        if self._when == "before":
            self.kill()
            return Reply(reset=True)
        return None

    def after(self) -> None:
        """The store has acted on a request."""
        if self.killed and self._when == "after":
            self.kill()

    def kill(self) -> None:
        """Kill the run."""
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
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_step_and_run_again(
    when: str,
    mode: Any,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    s3: LocalS3,
    make_bucket: Any,
    zygote: subprocess.Popen[str],
) -> None:
    generator.mode = mode
    outcomes: list[str] = []
    for step in range(1, STEPS + 1):
        killer = Killer(step, when)
        unknown = _kill_and_run_again(killer, generator, sandbox, s3, make_bucket, zygote)
        outcomes.append(f"{step}: {'killed' if killer.killed else 'finished'}, {unknown} unknown")
        if not killer.killed:
            break
    else:
        pytest.fail(f"{STEPS} steps were not enough: raise STEPS. {outcomes}")
    assert len(outcomes) > 10, outcomes
    print(*outcomes, sep="\n")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_killed_at_random_moments_and_run_again(
    mode: Any,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    s3: LocalS3,
    make_bucket: Any,
    zygote: subprocess.Popen[str],
) -> None:
    generator.mode = mode
    sandbox.latency = (0.1, 0.3)
    chance = random.Random()
    for _ in range(AT_RANDOM):
        killer = Killer(0, "at random")
        seconds = chance.uniform(0.1, 2.0)
        threading.Timer(seconds, killer.kill).start()
        print(f"{seconds:.3f} s:", end=" ")
        print(_kill_and_run_again(killer, generator, sandbox, s3, make_bucket, zygote), "unknown")


def _kill_and_run_again(
    killer: Killer,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    s3: LocalS3,
    make_bucket: Any,
    zygote: subprocess.Popen[str],
) -> int:
    """Kill a run, run its batch again, check all that is promised; say what is left unknown."""
    sandbox.account.credits = 100
    rows_before, posts_before = len(sandbox.account.rows), sandbox.account.posts
    with FaultyS3(s3.endpoint_url) as store, FaultyS3(sandbox.origin) as api:
        store.fault = api.fault = killer
        store.after = api.after = killer.after
        bucket = make_bucket(endpoint_url=store.url)
        folder = s3.folder / bucket.bucket_name / bucket.bucket_folder / "b"
        credentials = generator.credentials.model_copy(update={"base_url": f"{api.url}/api/v1"})
        killed = generator.model_copy(update={"credentials": credentials})
        finished = _run_and_kill(zygote, killed, bucket, killer)
        store.fault = lambda _: None
        time.sleep(0.05)  # a request that had left when the process died
        records = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
        in_flight = sum(record["state"] == "asked" for record in records)
        report = _run_here(generator, bucket)
        asked = Counter(row.prompt for row in sandbox.account.rows[rows_before:])
        assert max(asked.values(), default=0) <= 1, f"paid twice: {asked}"
        assert sandbox.account.posts - posts_before <= len(PROMPTS)
        # In sync mode for as long as a generation takes, in async mode for as long as a submission.
        assert report.unknown == in_flight <= 1, "no more than the one request in flight is unknown"
        assert not (finished and report.unknown)
        assert report.stored + report.warnings + report.unknown == len(PROMPTS)
        charged = sum(row.credits for row in sandbox.account.rows[rows_before:])
        accounted = report.credits_used + report.credits_reused
        assert charged - accounted in (0, report.unknown)
        assert len(list((folder / "images").glob("*"))) == report.images == report.stored
        again = _run_here(generator, bucket) if report.unknown else report
        assert (again.stored, again.unknown) == (report.stored, report.unknown)
        assert sandbox.account.posts - posts_before <= len(PROMPTS)
    return report.unknown


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
