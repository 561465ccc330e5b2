"""The main job and the tasks on Dask and Ray: real clusters, real workers, killed for real."""

from __future__ import annotations

import contextvars
import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from clusters import dask, processes_connected_to, processes_of_workers, ray
from prefect import flow, unmapped
from prefect_aws import S3Bucket

from prefect_nanobanana import (
    ImagePrompt,
    NanoBananaGenerator,
    RunFailed,
    RunReport,
    generate_image,
)
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.pictures import draw

pytestmark = [
    pytest.mark.engines,
    # Of Dask and Ray themselves.
    pytest.mark.filterwarnings("default"),
]
Begin = Callable[..., "Future[RunReport]"]
WaitFor = Callable[..., None]


@pytest.fixture(scope="module", params=[dask, ray], ids=lambda engine: engine.__name__)
def runner(request: pytest.FixtureRequest, prefect_server: None) -> Iterator[Any]:
    with request.param() as runner:
        yield runner


@pytest.fixture
def generator(generator: NanoBananaGenerator, sandbox: Sandbox) -> NanoBananaGenerator:
    sandbox.account.limit, sandbox.latency = 2, (0.1, 0.1)
    credentials = generator.credentials.model_copy(update={"max_concurrent_requests": 2})
    return generator.model_copy(update={"credentials": credentials})


@pytest.fixture
def begin(runner: Any, generator: NanoBananaGenerator, bucket: Any, sandbox: Sandbox) -> Iterator[Begin]:
    """Begins the main job, in a thread beside the test."""
    pool = ThreadPoolExecutor(1)

    def work(prompts: list[Any], changes: dict[str, Any]) -> RunReport:
        settings = {"generator": generator, "bucket": bucket, "batch": "b", **changes}
        try:
            report: Any = generate_images.with_options(task_runner=runner)(prompts=prompts, **settings)
        except RunFailed as error:
            report = error.report
        assert isinstance(report, RunReport)
        return report

    def begin(*prompts: Any, **changes: Any) -> Future[RunReport]:
        return pool.submit(contextvars.copy_context().run, work, list(prompts), changes)

    yield begin
    sandbox.running.set()
    pool.shutdown()


def _cats(count: int) -> list[str]:
    return [f"a cat, number {n}" for n in range(count)]


def test_workers_do_the_work(begin: Begin, sandbox: Sandbox, folder: Path, wait_for: WaitFor) -> None:
    """In processes of their own, below the account's limit, one charge per prompt; a resume is free."""
    sandbox.running.clear()
    prompts = [*_cats(11), "a nude"]
    run = begin(*prompts)
    wait_for(lambda: sandbox.account.open == 2, 60)
    asking, workers = processes_connected_to(sandbox.port), processes_of_workers()
    sandbox.running.set()
    report = run.result()

    assert asking
    assert asking <= workers
    assert (report.stored, report.warnings, report.credits_used) == (11, 1, 12)
    account = sandbox.account
    assert (account.charged, account.posts, account.refusals, account.most_open) == (12, 12, 0, 2)
    rows = [json.loads(line) for line in (folder / "b/manifest.jsonl").read_text().splitlines()]
    assert sorted(row["prompt"]["prompt"] for row in rows) == sorted(prompts)
    assert sum(len(list((folder / "b/images").glob(f"*-{n}.*"))) for n in (1, 2)) == 11

    again = begin(*prompts).result()
    assert (again.stored, again.credits_used, again.credits_reused) == (11, 0, 12)
    assert account.posts == 12


def test_a_ceiling_holds(begin: Begin, sandbox: Sandbox) -> None:
    report = begin(*_cats(6), max_credits=4).result()
    assert (report.stored, report.skipped, sandbox.account.charged) == (4, 2, 4)


def test_workers_fall_back_and_offer_private_references(
    begin: Begin, sandbox: Sandbox, bucket: S3Bucket
) -> None:
    """What is asked of another model, and what signs an address, is made in the worker."""
    store = ObjectStore(bucket)
    store.put(store.key("cat.png"), draw("cat", seed="cat", longest=64), "image/png")
    prompt = ImagePrompt(prompt="a", reference_image_urls=[store.uri(store.key("cat.png"))])
    sandbox.faults.queue("warning")
    report = begin(prompt, fallback_models=["nanobanan-2"]).result()
    assert (report.stored, report.credits_used, sandbox.account.charged) == (1, 3, 3)
    assert [each.model for each in report.outcomes[0].tries] == ["nano-banana", "nanobanan-2"]
    assert all("X-Amz-Signature" in row.references[0] for row in sandbox.account.rows)
    assert begin(prompt, fallback_models=["nanobanan-2"]).result().credits_used == 0


def test_a_killed_worker_pays_nothing_twice(begin: Begin, sandbox: Sandbox, wait_for: WaitFor) -> None:
    """What it had in flight is unknown, as after any kill: the engine runs the task again, in vain."""
    sandbox.running.clear()
    run = begin(*_cats(6))
    wait_for(lambda: sandbox.account.open == 2, 60)
    victim = min(processes_connected_to(sandbox.port))
    os.kill(victim, signal.SIGKILL)
    sandbox.running.set()
    report = run.result()

    in_flight = report.unknown
    assert in_flight in (1, 2)
    assert (report.stored, report.skipped, report.failed) == (6 - in_flight, 0, 0)
    assert (sandbox.account.posts, sandbox.account.charged) == (6, 6)
    assert report.credits_used + sum(o.credits_at_risk for o in report.outcomes) == 6

    again = begin(*_cats(6)).result()
    assert (again.stored, again.unknown, again.credits_used) == (6 - in_flight, in_flight, 0)
    assert sandbox.account.posts == 6


def test_a_worker_killed_while_its_generation_runs_loses_nothing(
    begin: Begin,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    folder: Path,
    wait_for: WaitFor,
) -> None:
    """In async mode the id is in the ledger: other workers ask for the end."""
    sandbox.running.clear()
    run = begin(*_cats(2), generator=generator.model_copy(update={"mode": "async"}))
    records = folder / "b/records"

    def submitted() -> bool:
        texts = [path.read_text("utf-8") for path in records.glob("*.json")]
        return sum('"state": "submitted"' in text for text in texts) == 2

    wait_for(submitted, 60)
    for worker in processes_of_workers():
        os.kill(worker, signal.SIGKILL)
    sandbox.running.set()
    report = run.result()
    assert (report.stored, report.credits_used) == (2, 2)
    assert (sandbox.account.posts, sandbox.account.charged) == (2, 2)


def test_tasks_in_a_flow_of_ones_own(
    runner: Any, generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    @flow(task_runner=runner)
    def own(prompts: list[str]) -> list[str]:
        found = generate_image.map(prompts, generator=unmapped(generator)).result()
        return [each.status for each in found]

    assert own([*_cats(5), "a nude"]) == ["completed"] * 5 + ["warning"]
    account = sandbox.account
    assert (account.charged, account.posts, account.refusals) == (6, 6, 0)
    assert account.most_open <= 2  # the second worker may still be starting
