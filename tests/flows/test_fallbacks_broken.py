"""Fallback models under all that can come between: parts, workers, other runs, retries, odd prices."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from divided import Divided
from prefect_aws import S3Bucket

from prefect_nanobanana import (
    ImagePrompt,
    InvalidInput,
    NanoBananaGenerator,
    RunFailed,
    RunReport,
)
from prefect_nanobanana.batch import Ledger, _stages, _workers
from prefect_nanobanana.batch._charges import charges_of
from prefect_nanobanana.batch._fallbacks import refuses_model
from prefect_nanobanana.batch._job import Job
from prefect_nanobanana.batch._keys import prompt_keys
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._shared import SpentByRecords
from prefect_nanobanana.batch._stages import Stages
from prefect_nanobanana.errors import BadRequest
from prefect_nanobanana.flows import generate_images, plan_images
from prefect_nanobanana.models import Generation, Submission
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]
NANO, TWO, SEED = "nano-banana", "nanobanan-2", "seedream-5.0-2k"  # 1, 2 and 3 credits


def models(sandbox: Sandbox) -> list[str]:
    return [row.model for row in sandbox.account.rows]


def charging(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, **costs: int) -> None:
    """Have models cost something else than the catalogue lists; `TWO` as `two`."""
    listed, named = sandbox.account.cost, {"two": TWO, "nano": NANO}
    changed = {named[name]: cost for name, cost in costs.items()}

    def cost(model: str, references: int, quantity: int) -> int:
        return changed.get(model, listed(model, references, quantity))

    monkeypatch.setattr(sandbox.account, "cost", cost)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has jobs go through what workers in other processes are given, and tell."""
    monkeypatch.setattr(_workers, "runs_elsewhere", lambda: True)


# Parts.


def test_parts_do_not_find_out_a_price_each_for_itself(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fallback that is listed at 2 and costs 20: the ceiling is passed by one request, not by four."""
    sandbox.account.limit = generator.credentials.max_concurrent_requests = 4
    charging(sandbox, monkeypatch, two=20)
    sandbox.latency = (0.1, 0.1)
    prompts = ["z", *(f"a nude {n}" for n in range(11))]
    divided = Divided(generator, bucket)
    report = divided.run(*prompts, parts=4, max_credits=24, fallback_models=[TWO])
    assert sandbox.account.charged == report.credits_used <= 24 + 18
    assert models(sandbox).count(TWO) == 1


def test_what_a_part_paid_for_a_refusal_is_in_the_report(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    sandbox.faults.queue("warning", "400")
    report = Divided(generator, bucket).run("a", parts=2, fallback_models=[TWO])
    assert (report.stored, report.credits_used, report.credits_without_image) == (1, 3, 1)
    assert (sandbox.account.charged, report.credits_unexplained) == (3, 0)


# Asked again.


@pytest.mark.parametrize("fault", ["failed", "unknown"])
@pytest.mark.parametrize("fallbacks", [[TWO], []])
def test_what_is_asked_again_is_the_model_that_failed(
    fault: Any, fallbacks: list[str], run: Run, sandbox: Sandbox
) -> None:
    sandbox.faults.queue("warning", {"failed": "failed", "unknown": "reset_after"}[fault])
    run("a", fallback_models=[TWO], fail_on="never")
    run("a", fallback_models=fallbacks, ask_again=[fault], fail_on="never")
    assert models(sandbox) == [NANO, TWO, TWO]


def test_a_retry_finishes_what_was_asked_again_from_the_first_model_on(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, run: Run
) -> None:
    sandbox.faults.queue("warning", "warning")
    run("a", fallback_models=[TWO], fail_on="never")
    sandbox.faults.queue("warning", "400")
    retried = generate_images.with_options(retries=1, retry_delay_seconds=0)
    settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "batch": "b"}
    with suppress(RunFailed):
        retried(
            prompts=["a"],
            fallback_models=[TWO],
            ask_again=["warnings"],
            fail_on="warning",
            **settings,
        )
    assert models(sandbox) == [NANO, TWO, NANO, TWO]


@pytest.mark.parametrize("second", ["reset_before", "failed_free"])
def test_who_has_refused_is_not_asked_by_a_plain_run(
    second: str, run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the model after it has cost nothing."""
    if second == "failed_free":
        charging(sandbox, monkeypatch, two=0)
        sandbox.faults.queue("warning", "failed")
    else:
        sandbox.faults.queue("warning", "reset_before", "400")
    run("a", fallback_models=[TWO], fail_on="never")
    again = run("a", "b", fail_on="never")
    assert models(sandbox).count(NANO) == 2, "a, and b"
    assert again.credits_reused == 1
    assert run("z", fail_on="never").credits_used == 1


# Bounds.


def test_a_bound_knows_the_price_of_what_follows_a_poll(
    run: Run, sandbox: Sandbox, generator: NanoBananaGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    submits = generator.model_copy(update={"mode": "async"})
    sandbox.faults.queue("warning")
    sandbox.poll_faults.queue("400", "400", "400")
    run("a", generator=submits, fail_on="never")
    account = sandbox.account
    account.models[TWO] = replace(account.models[TWO], credits_cost=0)
    charging(sandbox, monkeypatch, two=7)
    with pytest.raises(InvalidInput, match="max_credits: cannot be kept"):
        run("a", generator=submits, fallback_models=[TWO], max_credits=0)
    assert models(sandbox) == [NANO]


def test_a_ceiling_holds_over_retries_with_a_retired_model(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    sandbox.faults.queue("reset_after")
    retried = generate_images.with_options(retries=1, retry_delay_seconds=0)
    prompts: list[Any] = [ImagePrompt(prompt="a", model="gone"), ImagePrompt(prompt="b", model=TWO)]
    settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "batch": "b"}
    with suppress(RunFailed):
        retried(prompts=prompts, fallback_models=[TWO], max_credits=3, **settings)
    assert sandbox.account.charged <= 3


def test_a_dead_process_is_charged_for_its_own_refusals(
    run: Run, sandbox: Sandbox, bucket: S3Bucket
) -> None:
    sandbox.faults.queue("warning", None, "warning", None)
    run("a", "b", fallback_models=[TWO], fail_on="never")
    store = ObjectStore(bucket)
    spent = SpentByRecords(store, Prices({}))
    assert spent(store.address(store.key("b")), "deadbeef0000") == 0


# Workers in other processes.


@pytest.mark.usefixtures("elsewhere")
def test_a_cost_that_is_not_told_is_estimated_at_the_price_of_the_model(
    run: Run, sandbox: Sandbox
) -> None:
    sandbox.faults.queue("warning", "no_credits_told", "no_credits_told")
    first = run("a", fallback_models=[TWO], fail_on="never")
    second = run(ImagePrompt(prompt="b", model="gone"), fallback_models=[TWO], fail_on="never")
    assert (first.credits_used, second.credits_used) == (1 + 2, 2)
    assert sandbox.account.charged == 5


@pytest.mark.usefixtures("elsewhere")
def test_an_error_before_the_next_model_is_asked_is_said(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.faults.queue("warning")
    run_task, asked = _workers.run_task, list[str]()

    def fail_once(task: Any, *arguments: Any) -> Any:
        asked.append(task.name)
        if asked.count("generate_image") == 2:
            raise RuntimeError("Prefect's server is away")
        return run_task(task, *arguments)

    monkeypatch.setattr(_stages, "run_task", fail_once)
    (outcome,) = run("a", fallback_models=[TWO], fail_on="never").outcomes
    assert "Prefect's server is away" in str(outcome.message)
    assert models(sandbox) == [NANO]


# Another run of the batch.


def test_two_runs_of_a_batch_report_what_each_has_paid(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one takes the prompt between two models of this one."""
    sandbox.faults.queue("warning")
    others: list[RunReport] = []
    begun, fall_back = list[bool](), Job.fall_back

    def let_the_other_go_first(job: Job) -> bool:
        if not begun:
            begun.append(True)
            with ThreadPoolExecutor(1) as pool:
                others.append(pool.submit(run, "a", fallback_models=[TWO]).result())
        return fall_back(job)

    monkeypatch.setattr(Job, "fall_back", let_the_other_go_first)
    mine = run("a", fallback_models=[TWO], fail_on="never")
    assert models(sandbox) == [NANO, TWO]
    assert (mine.credits_used, others[0].credits_used, sandbox.account.charged) == (1, 2, 3)
    assert (mine.credits_without_image, mine.credits_reused) == (1, 2)
    assert mine.outcomes[0].status == "stored"


def test_a_model_that_another_run_has_asked_meanwhile_is_passed_over(
    make_bucket: Callable[..., S3Bucket],
    moto_url: str,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    run: Run,
    waiting: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is refused, submits the next model and dies; this one polls that, and it has refused, too."""
    bucket = make_bucket(endpoint_url=moto_url)
    submits = generator.model_copy(update={"mode": "async"})
    waiting(await_other_for=30.0, settle_after=30.0)
    store, prompt = ObjectStore(bucket), ImagePrompt(prompt="a")
    sandbox.faults.queue("warning", "warning", None)
    request = submits.request(prompt)
    (key,) = prompt_keys([prompt], [request])
    other, begun = Ledger(store, "b", "A"), list[bool]()
    other.claim(
        Record(key=key.key, prompt=prompt, request=request)
        .listed(1, prompt, request)
        .asking(prompt, request, "A", 0, "t-")
    )

    def go_on(key: str) -> None:
        record = other.read_again(key)
        assert record is not None
        with submits.credentials.get_client() as client:
            generation = client.generate("a", mode="async")
            assert isinstance(generation, Generation)
            record = record.answered(generation, 1)
            other.write_once(record)
            following = request.model_copy(update={"model": TWO})
            record = record.asking(prompt, following, "A", 1, "t-", earlier=charges_of(record))
            other.claim(record)
            submission = client.submit("a", model=TWO)
            assert isinstance(submission, Submission)
            other.write_once(record.submitted(submission, 2))

    await_other = Stages._await_other

    def wait_after_it_has_gone_on(self: Stages, job: Job) -> Any:
        if not begun:
            begun.append(True)
            go_on(job.record.key)
        return await_other(self, job)

    monkeypatch.setattr(Stages, "_await_other", wait_after_it_has_gone_on)
    report = run("a", generator=submits, bucket=bucket, fallback_models=[TWO, SEED])
    assert models(sandbox) == [NANO, TWO, SEED]
    assert (report.stored, report.credits_used) == (1, 3)


# What is said.


def test_a_refusal_is_reused_with_its_cost_whatever_came_after_it(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    charging(sandbox, monkeypatch, two=0)
    sandbox.faults.queue("warning")
    run("a", fallback_models=[TWO])
    assert run("a", fallback_models=[TWO]).credits_reused == 1


def test_the_plan_warns_of_fallbacks_too(generator: NanoBananaGenerator, bucket: S3Bucket) -> None:
    found = plan_images(
        prompts=["a"],
        generator=generator,
        bucket=bucket,
        batch="b",
        fallback_models=["nanobanan-2-2k"],
    )
    assert "nanobanan-2-2k needs a paid plan" in found.warnings[0]


@pytest.mark.parametrize(
    ("said", "is_of_the_model"),
    [
        ("Unknown model: seedream-5.0-2k", True),
        ("The model 'seedream-5.0-2k' is not available", True),
        ("this model has been deprecated", True),
        ("\u8be5\u6a21\u578b\u4e0d\u5b58\u5728", True),
        ("prompt too long: 'a fashion model that is not available'", False),
        ("the image https://example.com/model/seedream-5.0-2k.png cannot be fetched", False),
        ("Invalid parameters", False),
        ("quota of seedream-5.0-2k-fast used up", False),
    ],
)
def test_which_refusals_are_of_the_model(said: str, is_of_the_model: bool) -> None:
    error = BadRequest(f"the API refused the request (400): {said}")
    assert refuses_model(error, SEED) is is_of_the_model


def test_a_record_under_a_former_key_is_found_after_a_fallback(
    run: Run, sandbox: Sandbox, bucket: S3Bucket
) -> None:
    """By what the list asks for, whichever model was asked last."""

    def signed(n: int) -> ImagePrompt:
        url = f"https://example.com/a.png?X-Amz-Signature={n}&X-Amz-Credential=k&sig={n}&se=2026"
        return ImagePrompt(prompt="a", reference_image_urls=[url])

    store = ObjectStore(bucket)
    sandbox.faults.queue("warning")
    run(signed(1), fail_on="never")
    (listed,) = store.keys(store.key("b", "records") + "/")
    found = store.find(listed.key)
    assert found is not None
    record = {**json.loads(found[0]), "key": "0" * 24}
    store.put(
        store.key("b", "records", "0" * 24 + ".json"), json.dumps(record).encode(), "application/json"
    )
    store.remove(listed.key)
    for n in (2, 3):
        run(signed(n), fallback_models=[TWO], fail_on="never")
    assert models(sandbox) == [NANO, TWO]
