"""Runs that are killed for real, at every step and at random, and then run again: one charge per prompt.

The boundaries are counted, not listed: every request of a run that changes something, at S3 or at the
API, is one, and so is every poll; the process is killed just before the server acts on it, and just
after. A new step cannot be forgotten, as it would send a request.
"""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from killing import Killer, run_and_kill, run_here
from prefect_aws import S3Bucket
from servers import FaultyS3

from prefect_nanobanana import NanoBananaGenerator
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]
PROMPTS = ["a", "nude"]
FALLBACKS = ["nanobanan-2"]
STEPS = 60
"""More than a run of two prompts takes; a run that was not killed shows that they were enough."""
AT_RANDOM = 5


@pytest.mark.timeout(900)
# What is left after step n and before step n + 1 is the same: one kill for each boundary.
@pytest.mark.parametrize(("mode", "when"), [("sync", "after"), ("async", "before")])
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
def test_killed_between_two_models_and_run_again(
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    s3: LocalS3,
    make_bucket: Any,
    zygote: subprocess.Popen[str],
) -> None:
    """At every step of a prompt that all models refuse: each is asked once, and all is accounted for."""
    ends: list[str] = []
    for step in range(1, STEPS + 1):
        killer = Killer(step, "after")
        rows = len(sandbox.account.rows)
        with _watched(killer, generator, sandbox, s3, make_bucket) as (store, killed, bucket):
            run_and_kill(zygote, killed, bucket, killer, ["a nude"], FALLBACKS)
            store.fault = lambda _: None
            time.sleep(0.05)
            reports = [
                run_here(generator, bucket, ["a nude"], fallback_models=FALLBACKS) for _ in range(2)
            ]
        asked = [row.model for row in sandbox.account.rows[rows:]]
        (outcome,) = reports[-1].outcomes
        chain = ["nano-banana", *FALLBACKS]
        if outcome.status == "unknown":  # it may have left, and nothing is asked after it
            assert asked == chain[: len(asked)]
        else:
            assert (outcome.status, asked) == ("warning", chain)
            charged = sum(row.credits for row in sandbox.account.rows[rows:])
            assert charged == outcome.credits_used == reports[-1].credits_reused
        assert reports[1].credits_used == 0
        ends.append(f"{step}: {'killed' if killer.killed else 'finished'}, {outcome.status}")
        if not killer.killed:
            break
    else:
        pytest.fail(f"{STEPS} steps were not enough: raise STEPS. {ends}")
    assert len(ends) > 8, ends
    print(*ends, sep="\n")


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


@contextmanager
def _watched(
    killer: Killer,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    s3: LocalS3,
    make_bucket: Any,
) -> Iterator[tuple[FaultyS3, NanoBananaGenerator, S3Bucket]]:
    """The store in front of which the killer stands, as before the API; what a run is given for both."""
    with FaultyS3(s3.endpoint_url) as store, FaultyS3(sandbox.origin) as api:
        store.fault = api.fault = killer
        store.after = api.after = killer.after
        credentials = generator.credentials.model_copy(update={"base_url": f"{api.url}/api/v1"})
        killed = generator.model_copy(update={"credentials": credentials})
        yield store, killed, make_bucket(endpoint_url=store.url)


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
    with _watched(killer, generator, sandbox, s3, make_bucket) as (store, killed, bucket):
        folder = s3.folder / bucket.bucket_name / bucket.bucket_folder / "b"
        finished = run_and_kill(zygote, killed, bucket, killer, PROMPTS)
        store.fault = lambda _: None
        time.sleep(0.05)  # a request that had left when the process died
        records = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
        in_flight = sum(record["state"] == "asked" for record in records)
        report = run_here(generator, bucket, PROMPTS)
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
        again = run_here(generator, bucket, PROMPTS) if report.unknown else report
        assert (again.stored, again.unknown) == (report.stored, report.unknown)
        assert sandbox.account.posts - posts_before <= len(PROMPTS)
    return report.unknown
