"""The default name of a batch: the same under any retry above, so that nothing is paid twice."""

from __future__ import annotations

import contextvars
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run
from prefect.states import AwaitingRetry
from prefect_aws import S3Bucket

from prefect_nanobanana import InvalidInput, NanoBananaGenerator, RunReport
from prefect_nanobanana._common.runs_above import runs_above
from prefect_nanobanana.flows import _batch_name
from prefect_nanobanana.flows._batch_name import default_batch_name
from prefect_nanobanana.flows._images import generate_images
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
Ask = Callable[..., RunReport]
Fail = Callable[[], None]


@pytest.fixture
def ask(generator: NanoBananaGenerator, bucket: S3Bucket) -> Ask:
    """Runs the main job without a name for its batch."""

    def call(*prompts: str, **changes: Any) -> RunReport:
        settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "fail_on": "never"}
        report = generate_images(prompts=list(prompts), **settings | changes)
        assert isinstance(report, RunReport)
        return report

    return call


def batches(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/records")}


def test_a_run_of_its_own_says_day_name_and_id(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, folder: Path
) -> None:
    seen: list[tuple[str, str]] = []

    @flow(retries=1, flow_run_name="Fantastic Bädger")
    def named() -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        start = context.flow_run.expected_start_time
        assert start is not None
        name = default_batch_name(runs_above(), ["a"], None, generator, "s3://b", lambda _: False)
        seen.append((name, f"{start:%Y-%m-%d}-fantastic-badger-"))
        if len(seen) == 1:
            raise RuntimeError("once more")

    named()
    (first, start), (second, _) = seen
    assert first == second
    assert re.fullmatch(re.escape(start) + "[0-9a-f]{8}", first)
    report = generate_images(prompts=["a"], generator=generator, bucket=bucket)
    assert batches(folder) == {report.batch}
    assert sandbox.account.charged == 1


def test_a_callable_name_is_no_part_of_it(generator: NanoBananaGenerator) -> None:
    """It may say something else each time, and is called anew by a retry in the UI."""

    @flow(name="Nightly Pictures", flow_run_name=lambda: "17:03:59")
    def named() -> str:
        return default_batch_name(runs_above(), ["a"], None, generator, "s3://b", lambda _: False)

    assert "-nightly-pictures-" in named()


def one(ask: Ask, fail: Fail) -> None:
    @flow(retries=1)
    def parent() -> None:
        ask("a cat", "a dog")
        fail()

    parent()


def through_a_task(ask: Ask, fail: Fail) -> None:
    @task(retries=1)
    def around() -> None:
        ask("a cat", "a dog")
        fail()

    @flow
    def parent() -> None:
        around()

    parent()


def a_task_without_a_flow(ask: Ask, fail: Fail) -> None:
    @task(retries=1)
    def around() -> None:
        ask("a cat", "a dog")
        fail()

    around()


def two_deep(ask: Ask, fail: Fail) -> None:
    @flow
    def middle() -> None:
        ask("a cat", "a dog")

    @flow(retries=1)
    def parent() -> None:
        middle()
        fail()

    parent()


def the_middle_one(ask: Ask, fail: Fail) -> None:
    @flow(retries=1)
    def middle() -> None:
        ask("a cat", "a dog")
        fail()

    @flow
    def parent() -> None:
        middle()

    parent()


def a_task_around_the_middle_one(ask: Ask, fail: Fail) -> None:
    @flow
    def middle() -> None:
        ask("a cat", "a dog")
        fail()

    @task(retries=1)
    def around() -> None:
        middle()

    @flow
    def parent() -> None:
        around.submit().result()

    parent()


def both(ask: Ask, fail: Fail) -> None:
    """The middle one is retried in the first attempt of its parent, which is retried after it."""
    later = [1]

    @flow(retries=1)
    def middle() -> None:
        ask("a cat", "a dog")
        fail()

    @flow(retries=1)
    def parent() -> None:
        middle()
        if later:
            later.pop()
            raise RuntimeError("later still")

    parent()


SHAPES = [
    *(one, through_a_task, a_task_without_a_flow, two_deep),
    *(the_middle_one, a_task_around_the_middle_one, both),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("fault", [None, "500"])
def test_no_retry_above_pays_again(
    shape: Callable[[Ask, Fail], None],
    fault: str | None,
    ask: Ask,
    fail_once: Fail,
    sandbox: Sandbox,
    folder: Path,
) -> None:
    if fault:
        sandbox.faults.queue(fault)  # charged, and no answer says so
    shape(ask, fail_once)
    assert sandbox.account.charged == sandbox.account.posts == 2
    assert len(batches(folder)) == 1


def test_equal_calls_are_batches_of_their_own_and_stay_so(
    ask: Ask, fail_once: Fail, sandbox: Sandbox, folder: Path
) -> None:
    names: list[str] = []

    @flow
    def middle() -> None:
        names.append(ask("a cat").batch)

    @flow(retries=1)
    def parent() -> None:
        names.append(ask("a cat").batch)
        names.append(ask("a cat").batch)
        middle()
        middle()
        fail_once()

    parent()
    assert names[:4] == names[4:]
    assert len(set(names)) == len(batches(folder)) == 4
    assert sandbox.account.charged == sandbox.account.posts == 4


def test_what_is_asked_tells_calls_apart_and_not_their_order(
    ask: Ask, fail_once: Fail, sandbox: Sandbox, make_bucket: Callable[..., S3Bucket]
) -> None:
    """Threads: the second attempt calls in another order."""
    other = make_bucket()
    calls: list[dict[str, Any]] = [{}, {"bucket": other}, {}]
    texts = ["a", "a", "b"]
    names: list[dict[int, str]] = []

    @flow(retries=1)
    def parent() -> None:
        order = [0, 1, 2] if not names else [2, 1, 0]
        with ThreadPoolExecutor(3) as pool:
            futures = {}
            for n in order:
                inside = contextvars.copy_context()
                futures[n] = pool.submit(inside.run, partial(ask, texts[n], **calls[n]))
        names.append({n: future.result().batch for n, future in sorted(futures.items())})
        fail_once()

    parent()
    assert names[0] == names[1]
    assert len(set(names[0].values())) == 3
    assert sandbox.account.charged == 3


def test_a_retry_by_a_person_in_a_new_process(
    ask: Ask, fail_once: Fail, sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow
    def parent() -> None:
        ask("a cat")
        ask("a cat")
        fail_once()

    failed = parent(return_state=True)
    assert failed.is_failed()
    monkeypatch.setattr(_batch_name, "_calls", {})  # what another process would know
    with get_client(sync_client=True) as client:
        run_id = failed.state_details.flow_run_id
        assert run_id is not None
        client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
        run_flow(parent, flow_run=client.read_flow_run(run_id))
        assert client.read_flow_run(run_id).run_count == 2
    assert len(batches(folder)) == 2
    assert sandbox.account.charged == sandbox.account.posts == 2


def test_two_runs_of_one_parent_are_two_batches(ask: Ask, sandbox: Sandbox) -> None:
    @flow(retries=1)
    def parent() -> str:
        return ask("a cat").batch

    assert parent() != parent()
    assert sandbox.account.charged == 2


def test_earlier_versions_named_it_after_the_run(generator: NanoBananaGenerator) -> None:
    names: list[str] = []
    own: list[str] = []

    @flow(retries=1)
    def mine() -> None:
        own.append(str(flow_run.id))
        names.append(
            default_batch_name(runs_above(), ["a"], None, generator, "s3://b", lambda name: name in own)
        )
        if len(names) == 1:
            raise RuntimeError("once more")

    mine()
    assert names[0] != names[1] == own[0]


@pytest.mark.parametrize(("retries", "refused"), [(0, False), (1, True)])
def test_a_parent_in_another_process_is_refused_if_it_is_retried(
    ask: Ask, sandbox: Sandbox, retries: int, refused: bool
) -> None:
    """As `run_deployment` does it: the child's process knows of its parent from the server only."""

    @flow(retries=retries)
    def parent() -> UUID:
        with get_client(sync_client=True) as client:
            context = FlowRunContext.get()
            assert context is not None
            assert context.flow_run is not None

            @task
            def placeholder() -> None: ...

            run = client.create_task_run(
                task=placeholder, flow_run_id=context.flow_run.id, dynamic_key="0"
            )
            return run.id

    above = parent()

    @flow
    def child() -> str:
        return ask("a cat").batch

    def start() -> Any:
        with get_client(sync_client=True) as client:
            run = client.create_flow_run(child, parent_task_run_id=above)
        return run_flow(child, flow_run=run)

    if refused:
        with pytest.raises(InvalidInput, match="give `batch=`"):
            start()
    else:
        assert start()
    assert sandbox.account.posts == (0 if refused else 1)
