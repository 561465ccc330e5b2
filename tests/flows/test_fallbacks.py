"""Other models, on request only, if one is retired or refuses: each at its own price, each once."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from galleries import manifest
from prefect_aws import S3Bucket

from prefect_nanobanana import ImagePrompt, InvalidInput, NanoBananaGenerator, Plan, RunFailed, RunReport
from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.flows import copy_pending, generate_images
from prefect_nanobanana.report._item import GalleryItem
from prefect_nanobanana.report._plan_page import plan_markdown
from prefect_nanobanana.report._summary import summary
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]
Planner = Callable[..., Plan]
TWO, SEED = "nanobanan-2", "seedream-5.0-2k"  # 2 and 3 credits


def models(sandbox: Sandbox) -> list[str]:
    return [generation.model for generation in sandbox.account.rows]


def test_off_by_default(run: Run, sandbox: Sandbox) -> None:
    sandbox.faults.queue("warning")
    report = run("a", fail_on="never")
    assert (report.warnings, sandbox.account.posts) == (1, 1)


@pytest.mark.parametrize("mode", ["sync", "async", "stream"])
def test_a_refusal_has_the_next_model_asked(
    run: Run, sandbox: Sandbox, generator: NanoBananaGenerator, mode: Any
) -> None:
    sandbox.faults.queue("warning", "warning")
    report = run("a", generator=generator.model_copy(update={"mode": mode}), fallback_models=[TWO, SEED])
    (outcome,) = report.outcomes
    assert outcome.status == "stored"
    assert [(t.model, t.status, t.credits_used, t.images) for t in outcome.tries] == [
        ("nano-banana", "warning", 1, 0),
        (TWO, "warning", 2, 0),
        (SEED, "stored", 3, 1),
    ]
    assert outcome.credits_used == report.credits_used == sandbox.account.charged == 6
    assert report.credits_without_image == 3
    assert report.credits_unexplained == 0
    assert outcome.message == (f"made by {SEED}; refused by nano-banana (1 credit), {TWO} (2 credits)")
    row = manifest([GalleryItem(outcome)]).decode()
    assert '"tries": [{"model": "nano-banana", "status": "warning", "credits_used": 1' in row


def test_it_is_reused_and_not_asked_again(run: Run, sandbox: Sandbox) -> None:
    sandbox.faults.queue("warning")
    run("a", fallback_models=[TWO])
    again = run("a", fallback_models=[TWO, SEED])
    assert (again.credits_used, again.credits_reused, sandbox.account.posts) == (0, 3, 2)
    assert again.outcomes[0].tries[0].status == "warning"
    assert run("a").outcomes[0].status == "stored", "the key is that of the list's own model"


def test_if_all_refuse_it_is_a_warning(run: Run, sandbox: Sandbox) -> None:
    sandbox.faults.queue("warning", "warning")
    report = run("a", fallback_models=[TWO], fail_on="never")
    assert (report.warnings, report.credits_used, report.credits_without_image) == (1, 3, 3)
    again = run("a", fallback_models=[TWO], fail_on="never")
    assert (again.warnings, again.credits_used, sandbox.account.posts) == (1, 0, 2)


def test_what_an_earlier_run_was_refused_goes_on_with_the_next_model(
    run: Run, plan: Planner, sandbox: Sandbox
) -> None:
    """Also after a kill between two models: what was refused and paid is not asked a second time."""
    sandbox.faults.queue("warning")
    run("a", fail_on="never")
    run("b")
    found = plan("a", "b", fallback_models=[TWO])
    assert [(p.step, p.model, p.price) for p in found.prompts] == [
        ("again", TWO, 2),
        ("reused", "nano-banana", 0),
    ]
    report = run("a", "b", fallback_models=[TWO])
    assert (report.stored, report.credits_used, sandbox.account.charged) == (2, 2, 4)
    assert models(sandbox) == ["nano-banana", "nano-banana", TWO]


def test_on_request_all_are_asked_again(run: Run, sandbox: Sandbox) -> None:
    sandbox.faults.queue("warning", "warning", "warning")
    run("a", fallback_models=[TWO], fail_on="never")
    run("a", fallback_models=[TWO], ask_again=["warnings"])
    assert models(sandbox) == ["nano-banana", TWO, "nano-banana", TWO]


def test_a_retired_model_is_replaced_before_anything_is_sent(
    run: Run, plan: Planner, sandbox: Sandbox
) -> None:
    retired = ImagePrompt(prompt="a", model="gone")
    with pytest.raises(InvalidInput, match="the API has no 'gone'"):
        run(retired)
    found = plan(retired, "b", fallback_models=[TWO])
    assert found.warnings[0] == (
        f"prompts, row 1: model: the API has no 'gone': {TWO!r} is asked instead"
    )
    assert (found.price, found.worst_price) == (2 + 1, 2 + 1 + 2)
    assert sandbox.account.posts == 0
    report = run(retired, fallback_models=[TWO])
    assert (report.stored, report.credits_used) == (1, 2)
    assert models(sandbox) == [TWO]


def test_a_model_that_goes_in_mid_run_is_replaced_for_nothing(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue has it when the run begins; the API refuses it, and charges nothing."""
    prompts = [ImagePrompt(prompt=f"p{n}", model=SEED) for n in range(3)]
    made = sandbox.account.models
    kept = made[SEED]
    shown = dict(made)

    class Retiring(dict[str, Any]):
        def values(self) -> Any:
            return shown.values()

    monkeypatch.setattr(
        sandbox.account, "models", Retiring({k: m for k, m in made.items() if k != SEED})
    )
    report = run(*prompts, fallback_models=[TWO])
    assert (report.stored, report.credits_used, report.credits_unexplained) == (3, 6, 0)
    assert kept.name not in models(sandbox)
    assert report.outcomes[0].tries == (), "what was free is no try"


def test_a_model_that_needs_another_plan_is_replaced(run: Run, sandbox: Sandbox) -> None:
    dear = "nanobanan-2-2k"
    prompts = [ImagePrompt(prompt=f"p{n}", model=dear) for n in range(3)]
    sandbox.faults.queue("403", "403", "403")
    report = run(*prompts, fallback_models=[TWO])
    assert (report.stored, report.credits_used, report.credits_unexplained) == (3, 6, 0)


def test_what_cannot_be_asked_is_refused_before(run: Run, sandbox: Sandbox) -> None:
    for names, said in (([""], "one is empty"), (["nope"], "the API has no 'nope': it has nano-banana")):
        with pytest.raises(InvalidInput, match=f"fallback_models: {said}"):
            run("a", fallback_models=names)
    assert sandbox.account.posts == 0


def test_a_model_that_takes_no_references_is_left_out(run: Run, sandbox: Sandbox) -> None:
    sandbox.faults.queue("warning")
    prompt = ImagePrompt(prompt="a", reference_image_urls=["https://example.com/a.png"])
    report = run(prompt, fallback_models=[SEED, TWO])
    assert models(sandbox) == ["nano-banana", TWO]
    assert report.stored == 1


def test_the_plan_says_the_price_and_the_worst(plan: Planner) -> None:
    two = ImagePrompt(prompt="b", model=TWO, quantity=2)
    found = plan("a", two, fallback_models=[TWO, SEED])
    assert [(p.price, p.fallbacks, p.fallback_price) for p in found.prompts] == [
        (1, (TWO, SEED), 5),
        (4, (SEED,), 6),
    ]
    assert (found.price, found.worst_price) == (5, 16)
    assert "; 5 credits, at worst 16 with fallback models; " in summary(found)
    assert "1 (at worst 6)" in plan_markdown(found)


def test_a_ceiling_holds_and_says_what_was_not_asked(run: Run, sandbox: Sandbox) -> None:
    sandbox.faults.queue("warning")
    report = run("a", fallback_models=[TWO], max_credits=2, fail_on="never")
    assert sandbox.account.charged == report.credits_used == 1
    (outcome,) = report.outcomes
    assert outcome.status == "warning"
    assert outcome.message is not None
    assert outcome.message.endswith(f"; {TWO} was not asked: max_credits is reached")
    later = run("a", fallback_models=[TWO], max_credits=2)
    assert (later.stored, sandbox.account.charged) == (1, 3)


def test_a_budget_holds(run: Run, sandbox: Sandbox, bucket: S3Bucket) -> None:
    budget = NanoBananaBudget(credits=4, period="day", bucket=bucket, name="pictures")
    sandbox.faults.queue("warning", "warning")
    report = run("a", "b", fallback_models=[TWO], budget=budget, fail_on="never")
    assert sandbox.account.charged == report.credits_used <= 4
    assert budget.left() == 4 - report.credits_used


def test_approval_looks_at_the_worst(run: Run, sandbox: Sandbox) -> None:
    with pytest.raises(InvalidInput, match="this would cost up to 3 credits"):
        run("a", fallback_models=[TWO], approve_above=2)
    assert sandbox.account.posts == 0


def test_prices_must_be_known_under_a_bound(run: Run, sandbox: Sandbox) -> None:
    account = sandbox.account
    account.models[TWO] = replace(account.models[TWO], credits_cost=0)
    with pytest.raises(InvalidInput, match=f"max_credits: cannot be kept.*{TWO}"):
        run("a", fallback_models=[TWO], max_credits=5)
    assert account.posts == 0


def test_an_unknown_outcome_has_no_other_model_asked(run: Run, sandbox: Sandbox) -> None:
    """It may have been paid, and its picture may come."""
    sandbox.faults.queue("reset_after")
    report = run("a", fallback_models=[TWO])
    assert (report.unknown, sandbox.account.posts) == (1, 1)


def test_a_failure_has_no_other_model_asked(run: Run, sandbox: Sandbox) -> None:
    sandbox.faults.queue("failed")
    report = run("a", fallback_models=[TWO])
    assert (report.failed, sandbox.account.posts) == (1, 1)


def test_the_record_has_each_try(
    run: Run, sandbox: Sandbox, bucket: S3Bucket, generator: NanoBananaGenerator
) -> None:
    sandbox.faults.queue("warning", "reset_after")
    report = run("a", fallback_models=[TWO])
    assert (report.unknown, report.credits_used, report.credits_at_risk) == (1, 1, 2)
    (record,) = Ledger(ObjectStore(bucket), "b").read_others(()).values()
    assert [(c.model, c.status, c.credits) for c in record.earlier or ()] == [
        ("nano-banana", "warning", 1)
    ]
    assert (record.request.model, record.prompt.model, record.price) == (TWO, None, 2)
    copy_pending(generator=generator, bucket=bucket)


@pytest.mark.parametrize("seed", range(6))
def test_random_refusals_add_up(
    seed: int, run: Run, sandbox: Sandbox, generator: NanoBananaGenerator
) -> None:
    """Over random answers, ceilings and runs: all that is charged is told, and no more than may be."""
    rng = random.Random(seed)
    told: Any = 0
    for _ in range(5):
        before = sandbox.account.charged
        sandbox.faults.queue(
            *rng.choices([None, "warning", "failed", "400", "403"], (4, 5, 1, 1, 1), k=8)
        )
        ceiling = rng.choice([None, 3, 8])
        report = run(
            *(f"p{n}" for n in rng.sample(range(6), 4)),
            fallback_models=rng.choice([[], [TWO], [SEED, TWO]]),
            max_credits=ceiling,
            ask_again=rng.choice([[], ["warnings"], ["failed"]]),
            generator=generator.model_copy(update={"mode": rng.choice(["sync", "async"])}),
            fail_on="never",
        )
        assert report.credits_used == sandbox.account.charged - before
        assert report.credits_unexplained == 0
        assert ceiling is None or report.credits_used <= ceiling
        told += report.credits_used
    assert told == sandbox.account.charged
    assert models(sandbox) or sandbox.account.posts


def test_a_fallback_that_is_refused_for_nothing_is_asked_by_the_next_run(
    run: Run, sandbox: Sandbox
) -> None:
    sandbox.faults.queue("warning", "400")
    report = run("a", fallback_models=[TWO], fail_on="never")
    (outcome,) = report.outcomes
    assert (outcome.status, report.credits_used) == ("warning", 1)
    assert f"; {TWO} was not asked: the API refused the request (400)" in str(outcome.message)
    assert run("a", fallback_models=[TWO]).stored == 1
    assert sandbox.account.charged == 3


def test_prefects_retry_goes_on_with_the_next_model(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, run: Run
) -> None:
    sandbox.faults.queue("warning", "400")
    retried = generate_images.with_options(retries=1, retry_delay_seconds=0)
    settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "batch": "b"}
    with suppress(RunFailed):  # Prefect raises what the first attempt has raised
        retried(prompts=["a", "b"], fallback_models=[TWO], fail_on="warning", **settings)
    assert sandbox.account.charged == 1 + 1 + 2
    assert (run("a", "b").stored, sandbox.account.charged) == (2, 4)
