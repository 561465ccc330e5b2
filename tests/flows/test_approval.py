"""Runs that need a person's approval, where nobody can be asked; see tests/live/test_approved.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prefect import flow
from prefect_aws import S3Bucket

from prefect_nanobanana import InvalidInput, NanoBananaGenerator, RunReport
from prefect_nanobanana.flows import generate_images, plan_images
from prefect_nanobanana.sandbox import Sandbox

Run = Callable[..., RunReport]


def test_what_costs_no_more_than_the_bound_asks_nobody(run: Run, sandbox: Sandbox) -> None:
    assert run("a", "b", approve_above=2).stored == 2
    assert run("a", "b", "c", approve_above=1).stored == 3, "what is paid already counts as nothing"
    assert sandbox.account.charged == 3


@pytest.mark.parametrize("approve_above", [0, 1])
def test_a_run_that_nobody_can_be_asked_about_spends_nothing(
    approve_above: int, run: Run, sandbox: Sandbox
) -> None:
    """A script's own run has no deployment, so Prefect could not begin it anew."""
    with pytest.raises(
        InvalidInput, match=r"approve_above: this would cost 2 credits, more than the \d that"
    ):
        run("a", "b", approve_above=approve_above)
    assert sandbox.account.posts == 0


def test_a_run_inside_another_one_spends_nothing(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    @flow(persist_result=False)
    def above() -> Any:
        return generate_images(
            prompts=["a"], generator=generator, bucket=bucket, batch="b", approve_above=0
        )

    with pytest.raises(InvalidInput, match="only a run of a deployment of this flow"):
        above()
    assert sandbox.account.posts == 0


def test_what_needs_no_approval_is_spent_at_most(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    """Whatever the plan did not know: here, that the API charges more than it lists."""
    listed = sandbox.account.cost
    sandbox.account.cost = lambda *asked: 3 * listed(*asked)  # type: ignore[method-assign]
    report = run(*"abcd", approve_above=4)
    assert (report.stored, report.skipped, sandbox.account.charged) == (1, 3, 3)


def test_a_ceiling_below_the_bound_needs_no_approval(run: Run, sandbox: Sandbox) -> None:
    report = run(*"abcd", approve_above=2, max_credits=2)
    assert (report.stored, report.skipped, sandbox.account.charged) == (2, 2, 2)


def test_a_dry_run_asks_nobody_and_a_plan_says_that_it_would(
    run: Run, generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    assert run("a", "b", approve_above=1, dry_run=True).skipped == 2
    plan: Any = plan_images(prompts=["a", "b"], generator=generator, bucket=bucket, approve_above=1)
    assert plan.warnings == ("it needs a person's approval, as it costs more than 1 (approve_above)",)
    plan = plan_images(prompts=["a", "b"], generator=generator, bucket=bucket, approve_above=2)
    assert plan.warnings == ()
    assert sandbox.account.posts == 0
