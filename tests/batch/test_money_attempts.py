"""Money over all attempts of a run, and where no answer has told what something costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flow_checks import statuses
from prefect import flow
from prefect_aws import S3Bucket
from servers import Reply, Scripted, Seen

from prefect_nanobanana import NanoBananaGenerator, RunFailed, RunReport
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]


def _really_costs(sandbox: Sandbox, credits: int) -> None:
    sandbox.account.cost = lambda *asked: credits  # type: ignore[method-assign]


@pytest.mark.parametrize(("fault", "status"), [("500", "unknown"), ("no_credits_told", "stored")])
def test_what_no_answer_told_counts_at_the_price_that_is_told_later(
    run: Run, sandbox: Sandbox, fault: str, status: str
) -> None:
    _really_costs(sandbox, 4)
    sandbox.faults.queue(fault)
    report = run(*"abcdef", max_credits=9)
    assert sorted(statuses(report)) == sorted([status, "stored", *["skipped"] * 4])
    assert sandbox.account.charged == 8


@pytest.mark.parametrize("listed", [1, None])
def test_a_request_without_an_answer_is_nobody_elses_at_another_price(
    run: Run, sandbox: Sandbox, listed: int | None
) -> None:
    _really_costs(sandbox, 9)
    model = sandbox.account.models["nano-banana"]
    sandbox.account.models["nano-banana"] = replace(model, credits_cost=listed)  # type: ignore[arg-type]
    sandbox.faults.queue("500")
    report = run("a")
    assert statuses(report) == ["unknown"]
    assert report.credits_unexplained == 9
    assert report.credits_of_others is None


def test_a_ceiling_holds_over_the_attempts_of_a_run(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    sandbox.faults.queue("failed")
    with pytest.raises(RunFailed) as caught:
        generate_images.with_options(retries=1)(
            prompts=[*"abcdef"], generator=generator, bucket=bucket, max_credits=3
        )
    report = caught.value.report
    assert (report.failed, report.stored, report.skipped) == (1, 2, 3)
    assert sandbox.account.charged == 3


def test_a_ceiling_holds_over_the_attempts_of_a_flow_above(
    run: Run, sandbox: Sandbox, fail_once: Callable[[], None]
) -> None:
    reports: list[RunReport] = []

    @flow(retries=1)
    def parent() -> None:
        reports.append(run(*"abcdef", batch=None, max_credits=2))
        fail_once()

    parent()
    assert [r.stored for r in reports] == [2, 2]
    assert [r.credits_used for r in reports] == [2, 0]
    assert sandbox.account.charged == 2


@pytest.mark.parametrize("batch", ["b", None])
@pytest.mark.parametrize(
    ("fault", "again"), [("warning", "warnings"), ("failed", "failed"), ("500", "unknown")]
)
def test_what_is_asked_again_is_so_in_one_attempt_of_a_flow_above(
    run: Run,
    sandbox: Sandbox,
    fail_once: Callable[[], None],
    batch: str | None,
    fault: str,
    again: Any,
) -> None:
    if batch:
        sandbox.faults.queue(fault)
        run("a")
    sandbox.faults.queue(fault)

    @flow(retries=1)
    def parent() -> None:
        run("a", batch=batch, ask_again=[again], fail_on="never")
        fail_once()

    parent()
    assert sandbox.account.posts == sandbox.account.charged == (2 if batch else 1)


def test_siblings_do_not_erase_each_other(
    run: Run, sandbox: Sandbox, fail_once: Callable[[], None]
) -> None:
    """Each of three calls asks again on purpose; the second attempt of the flow asks for nothing."""
    for _ in range(6):
        sandbox.faults.queue("warning")

    @flow(retries=1)
    def parent() -> None:
        run("a", fail_on="never")
        for _ in range(2):
            run("a", ask_again=["warnings"], fail_on="never")
        fail_once()

    parent()
    assert sandbox.account.posts == sandbox.account.charged == 3


def test_ceilings_of_siblings_hold_each_for_itself(
    run: Run, sandbox: Sandbox, fail_once: Callable[[], None]
) -> None:
    for _ in range(20):
        sandbox.faults.queue("warning")

    @flow(retries=1)
    def parent() -> None:
        run(*"abcdef", max_credits=3, fail_on="never")
        run(*"abcdef", max_credits=3, ask_again=["warnings"], fail_on="never")
        fail_once()

    parent()
    assert sandbox.account.charged == 6


@pytest.mark.parametrize("batch", ["b", None])
def test_a_ceiling_holds_though_the_list_is_another_one_in_the_next_attempt(
    run: Run, sandbox: Sandbox, fail_once: Callable[[], None], batch: str | None
) -> None:
    lists = iter(["abc", "defg"])

    @flow(retries=1)
    def parent() -> None:
        run(*next(lists), batch=batch, max_credits=4, fail_on="never")
        fail_once()

    parent()
    assert sandbox.account.charged == (4 if batch else 7), "without a name it is another batch"


def test_another_prompt_in_the_list_asks_for_no_other_one_again(
    run: Run, sandbox: Sandbox, fail_once: Callable[[], None]
) -> None:
    sandbox.faults.queue("warning")
    run("a", fail_on="never")
    sandbox.faults.queue("warning")
    lists = iter(["a", "ab"])

    @flow(retries=1)
    def parent() -> None:
        run(*next(lists), ask_again=["warnings"], fail_on="never")
        fail_once()

    parent()
    assert sandbox.account.charged == 3


def test_lists_that_differ_in_their_query_are_never_mixed_up(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox, fail_once: Callable[[], None]
) -> None:
    """The calls come in another order in the second attempt, as those of threads do."""
    orders = iter(["12", "21"])

    def answer(seen: Seen) -> Reply:
        return Reply(f"a cat of list {seen.path[-1]}\n".encode())

    with Scripted(answer) as host:
        credentials = generator.credentials.model_copy(update={"image_hosts": [host.url.rstrip("/")]})
        allowed = generator.model_copy(update={"credentials": credentials})

        @flow(retries=1)
        def parent() -> None:
            for sheet in next(orders):
                run(prompts_from=f"{host.url}/list.txt?gid={sheet}", batch=None, generator=allowed)
            fail_once()

        parent()
    assert sandbox.account.posts == sandbox.account.charged == 2
