"""Two processes that share a budget, killed at random: nothing is overspent or stays set aside."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from killing import ended_well, new_zygote, start
from prefect_aws import S3Bucket

from prefect_nanobanana import NanoBananaGenerator
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.budgets._grants import TIMES
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.sandbox import Sandbox

pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.timeout(600),
]
CREDITS = 12
ROUNDS = 3
DEAD_SECONDS = 3.0
BATCHES = ("one", "two")
SECRETS = {"include_secrets": True}


def _prompts(batch: str) -> list[str]:
    return [f"{batch} {n}" for n in range(9)]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_nothing_that_is_killed_breaks_a_budget(
    mode: Any,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    make_bucket: Callable[..., S3Bucket],
    zygote: subprocess.Popen[str],
) -> None:
    generator.mode = mode
    sandbox.latency = (0.0, 0.2)
    sandbox.account.limit = generator.credentials.max_concurrent_requests = 2
    dice = random.Random()
    times = {"dead": DEAD_SECONDS, "renew": 1.0, "room": 0.2}
    with new_zygote() as second:
        for _ in range(ROUNDS):
            sandbox.account.credits, before = 100, len(sandbox.account.rows)
            bucket = make_bucket()
            budget = NanoBananaBudget(credits=CREDITS, bucket=bucket)

            def batch_of(
                zygote: subprocess.Popen[str],
                batch: str,
                bucket: S3Bucket = bucket,
                budget: NanoBananaBudget = budget,
            ) -> int:
                settings = {
                    "prompts": _prompts(batch),
                    "batch": batch,
                    "times": times,
                    **{
                        name: block.model_dump(mode="json", context=SECRETS)
                        for name, block in (
                            ("generator", generator),
                            ("bucket", bucket),
                            ("budget", budget),
                        )
                    },
                }
                killed = 0
                for _ in range(2):
                    process = start(zygote, settings)
                    timer = threading.Timer(dice.uniform(1.0, 4.0), _kill, [process])
                    timer.start()
                    killed += not ended_well(zygote)
                    timer.cancel()
                return killed

            with ThreadPoolExecutor(2) as pool:
                killed = list(pool.map(batch_of, (zygote, second), BATCHES))
            charged = sum(row.credits for row in sandbox.account.rows[before:])
            print(f"killed: {killed}, charged: {charged}")
            assert charged <= CREDITS

            # Whoever comes later settles what the dead had, and spends what is left.
            time.sleep(DEAD_SECONDS + 0.5)
            unknown = 0
            with TIMES.use(replace(TIMES.get(), **times)):
                for batch in BATCHES:
                    unknown += generate_images(
                        prompts=list(_prompts(batch)),
                        generator=generator,
                        bucket=bucket,
                        batch=batch,
                        budget=budget,
                        fail_on="never",
                    ).unknown
            rows = sandbox.account.rows[before:]
            assert max(Counter(row.prompt for row in rows).values()) == 1, "paid once"
            charged = sum(row.credits for row in rows)
            assert charged <= CREDITS
            # All of it is spent, but for what is unknown, and counts at worst.
            assert CREDITS - unknown <= charged + budget.left() <= CREDITS
            assert budget.left() == 0


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
