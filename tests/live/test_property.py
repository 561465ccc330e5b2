"""Random lists, faults and kills, against what an account must look like afterwards."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killing import Killer, run_and_kill, run_here
from pydantic import SecretStr
from servers import FaultyS3

from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator, RunReport
from prefect_nanobanana.sandbox import FAULTS, Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]
# Those that take no time: stalls and waits that servers ask for are in the matrix.
QUICK_FAULTS = sorted(set(FAULTS) - {"stall", "429_seconds", "429_date"})
faults = st.lists(st.none() | st.sampled_from(QUICK_FAULTS), max_size=6)


@pytest.mark.timeout(900)
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,  # a change must not fail by chance; raise max_examples to search
    suppress_health_check=list(HealthCheck),
)
@given(
    prompts=st.lists(st.sampled_from(["a", "b", "nude"]), min_size=1, max_size=5),
    mode=st.sampled_from(["sync", "async", "stream"]),
    first=faults,
    second=faults,
    step=st.integers(1, 30),
    when=st.sampled_from(["before", "after"]),
)
def test_no_prompt_is_paid_twice_and_every_credit_is_told(
    s3: LocalS3,
    make_bucket: Any,
    zygote: subprocess.Popen[str],
    prompts: list[str],
    mode: Any,
    first: list[str | None],
    second: list[str | None],
    step: int,
    when: str,
) -> None:
    """A run that meets faults and is killed, one that meets others, and one that meets none."""
    killer = Killer(step, when)
    with (
        Sandbox(picture_pixels=32) as sandbox,
        FaultyS3(s3.endpoint_url) as store,
        FaultyS3(sandbox.origin) as api,
    ):
        store.fault = api.fault = killer
        store.after = api.after = killer.after
        bucket = make_bucket(endpoint_url=store.url)
        here, killed = _generator(sandbox, sandbox.origin, mode), _generator(sandbox, api.url, mode)
        sandbox.faults.queue(*first)
        run_and_kill(zygote, killed, bucket, killer, prompts)
        store.fault = lambda _: None
        sandbox.faults._queued.clear()
        sandbox.faults.queue(*second)
        _check(run_here(here, bucket, prompts), sandbox, prompts)
        sandbox.faults._queued.clear()
        last = run_here(here, bucket, prompts)
        _check(last, sandbox, prompts)
        assert last.skipped == 0
        posts = sandbox.account.posts
        again = run_here(here, bucket, prompts)
        assert sandbox.account.posts == posts, "there was nothing left to ask for"
        assert (again.credits_used, again.stored) == (0, last.stored)


def _generator(sandbox: Sandbox, origin: str, mode: Any) -> NanoBananaGenerator:
    credentials = NanoBananaCredentials(
        api_key=SecretStr(sandbox.api_key), base_url=f"{origin}/api/v1", request_timeout_seconds=10
    )
    return NanoBananaGenerator(credentials=credentials, mode=mode)


def _check(report: RunReport, sandbox: Sandbox, prompts: Sequence[str]) -> None:
    account = Counter(row.prompt for row in sandbox.account.rows if row.credits)
    wanted = Counter(prompts)
    assert all(account[text] <= wanted[text] for text in account), f"paid twice: {account}"
    told = report.credits_used + report.credits_reused
    worst = sum(o.credits_at_risk for o in report.outcomes)
    assert told <= sandbox.account.charged <= told + worst
    gap = report.credits_unexplained
    assert gap is not None
    assert 0 <= gap <= report.credits_at_risk
    counts = (report.stored, report.warnings, report.failed, report.unknown, report.skipped)
    assert sum(counts) == len(prompts)
    made = {image.sha256 for outcome in report.outcomes for image in outcome.images}
    assert len(made) == report.images == report.stored
