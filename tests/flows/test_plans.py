"""The price first: a plan, a dry run, and what each run says before it spends."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect_aws import S3Bucket
from servers import FaultyS3, Reply

from prefect_nanobanana import (
    ApiError,
    ImagePrompt,
    InvalidInput,
    NanoBananaGenerator,
    Plan,
    PlannedPrompt,
    RunReport,
)
from prefect_nanobanana.flows import generate_images, plan_images
from prefect_nanobanana.report._plan_page import plan_markdown
from prefect_nanobanana.sandbox import Sandbox

Planner = Callable[..., Plan]
Run = Callable[..., RunReport]


def _artifact(batch: str) -> str:
    key = ArtifactFilterKey(any_=[f"nanobanana-{batch}-plan"])
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
    return str(found[0].data) if found else ""


def test_a_plan_says_what_it_would_cost_and_costs_nothing(
    plan: Planner, sandbox: Sandbox, folder: Path
) -> None:
    four = ImagePrompt(prompt="b", quantity=4)
    dear = ImagePrompt(prompt="c", model="nanobanan-2", aspect_ratio="16:9")
    found = plan("a", four, dear, max_credits=50)
    assert [(p.position, p.place, p.step) for p in found.prompts] == [
        (n, f"prompts, row {n}", "new") for n in (1, 2, 3)
    ]
    one, two = (sandbox.account.models[m].credits_cost for m in ("nano-banana", "nanobanan-2"))
    assert [p.price for p in found.prompts] == [one, 4 * one, two]
    assert (found.price, found.images) == (5 * one + two, 6)
    assert [(t.model, t.prompts, t.images, t.price) for t in found.by_model] == [
        ("nano-banana", 2, 5, 5 * one),
        ("nanobanan-2", 1, 1, two),
    ]
    assert found.balance == sandbox.account.credits
    assert found.balance_after == sandbox.account.credits - 5 * one - two
    assert sandbox.account.posts == 0
    assert not folder.exists(), "nothing is written"


def test_a_model_that_makes_films_is_said(plan: Planner, sandbox: Sandbox) -> None:
    """By its name, as the catalogue does not say; such a model is listed beside the others."""
    models = sandbox.account.models
    models["seedance-2"] = replace(models["nano-banana"], name="seedance-2")
    found = plan(ImagePrompt(prompt="a", model="seedance-2"), "b")
    assert found.warnings == (
        "prompts, row 1: model: seedance-2 seems to make films: they are stored unchecked, and shown "
        "as links",
    )


def test_what_is_done_already_costs_nothing(plan: Planner, run: Run, sandbox: Sandbox) -> None:
    sandbox.faults.queue(None, "warning")
    run("a", "b", fail_on="never")
    found = plan("a", "b", "c")
    assert [p.step for p in found.prompts] == ["reused", "reused", "new"]
    assert [p.price for p in found.prompts] == [0, 0, 1]
    again = plan("a", "b", "c", ask_again=["warnings"])
    assert sorted(p.step for p in again.prompts) == ["again", "new", "reused"]
    assert again.price == 2


def test_a_state_and_an_artifact_say_the_price(generator: NanoBananaGenerator, bucket: S3Bucket) -> None:
    state = plan_images(
        prompts=["a | pipe", "b"], generator=generator, bucket=bucket, batch="said", return_state=True
    )
    line = "2 prompts: 2 new; 2 credits; 100 in the account, 98 after"
    assert state.message == f"nothing spent: {line}"
    page = _artifact("said")
    assert line in page
    assert "a | pipe" not in page, "it is no column"
    assert "| nano-banana | 2 | 2 | 2 |" in page.replace("&#45;", "-")


def test_each_run_says_the_price_first(
    run: Run, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    run("a", "b", batch="first")
    lines = [r.getMessage() for r in caplog.records if r.name == "prefect.flow_runs"]
    priced = next(n for n, line in enumerate(lines) if "2 prompts: 2 new; 2 credits" in line)
    assert priced < next(n for n, line in enumerate(lines) if line.startswith("stored"))
    assert "Nothing is spent yet" in _artifact("first")


@pytest.mark.parametrize("max_credits", [None, 1])
def test_a_dry_run_spends_and_writes_nothing(
    max_credits: int | None, run: Run, sandbox: Sandbox, folder: Path
) -> None:
    """The switch in the form: it reports what there is, and what would be paid."""
    report = run("a", "b", dry_run=True, max_credits=max_credits)
    assert (report.prompts, report.skipped, report.credits_used) == (2, 2, 0)
    assert {o.message for o in report.outcomes} == {"a dry run asks for nothing; it would cost 1 credit"}
    assert (report.manifest_uri, report.gallery_uri) == (None, None)
    assert sandbox.account.posts == 0
    assert not folder.exists()
    run("a")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    report = run("a", "b", dry_run=True)
    assert [(o.status, o.reused) for o in report.outcomes] == [("stored", True), ("skipped", False)]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert sandbox.account.posts == 1


def test_a_dry_run_is_green_and_its_message_is_the_price(
    generator: NanoBananaGenerator, bucket: S3Bucket
) -> None:
    state = generate_images(
        prompts=["a"], generator=generator, bucket=bucket, batch="b", dry_run=True, return_state=True
    )
    assert state.is_completed()
    assert str(state.message).startswith("nothing spent: 1 prompt: 1 new; 1 credit;")


@pytest.mark.parametrize("seed", range(6))
def test_the_plan_s_price_is_what_is_charged(
    seed: int, plan: Planner, run: Run, sandbox: Sandbox
) -> None:
    """When nothing goes wrong: whatever models, sizes and references, and whatever was done before."""
    dice = random.Random(seed)
    takes = [m for m in sandbox.account.models.values() if m.supports_image_input]
    prompts = [
        ImagePrompt(
            prompt=f"prompt {n}",
            model=dice.choice(takes).name,
            quantity=dice.randint(1, 4),
            reference_image_urls=[f"https://h.example/{i}.png" for i in range(dice.randint(0, 3))],
        )
        for n in range(8)
    ]
    run(*dice.sample(prompts, 3))
    expected, charged = plan(*prompts).price, sandbox.account.charged
    report = run(*prompts)
    assert report.credits_used == sandbox.account.charged - charged == expected


def test_a_dry_run_has_paid_for_nothing_that_would_be_asked_again(run: Run, sandbox: Sandbox) -> None:
    sandbox.faults.queue("warning")
    run("a", fail_on="never")
    report = run("a", dry_run=True, ask_again=["warnings"])
    assert (report.skipped, report.credits_used, report.credits_reused) == (1, 0, 1)


def test_a_call_finds_its_batch_again_however_often_it_was_planned_before(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    """A flow of somebody's own looks first, more often in one attempt than in the next."""
    looks = iter([2, 1])

    @flow(retries=1)
    def outer() -> int:
        settings: dict[str, Any] = {"prompts": ["a"], "generator": generator, "bucket": bucket}
        for _ in range(next(looks)):
            generate_images(**settings, dry_run=True)
        generate_images(**settings)
        if sandbox.account.posts == 1 and not tried:
            tried.append(True)
            raise RuntimeError("try again")
        return sandbox.account.posts

    tried: list[bool] = []
    assert outer() == 1
    assert sandbox.account.charged == 1


def test_addresses_in_a_plan_lose_what_is_secret(plan: Planner) -> None:
    url = "https://user:word@h.example/x.png?X-Amz-Signature=SECRET"
    found = plan(ImagePrompt(prompt="a", reference_image_urls=[url]), batch="signed")
    for text in (repr(found), found.model_dump_json(), _artifact("signed")):
        assert "h.example" in text or "a" in text
        assert "SECRET" not in text
        assert "word@" not in text


def test_the_page_of_a_plan_is_bounded() -> None:
    """Prefect's run page downloads it whole; nothing of it grows without bound."""
    prompts = [
        PlannedPrompt(
            position=n,
            place=f"list.csv, line {n}",
            prompt=ImagePrompt(prompt=f"{n}: " + 200 * "x"),
            step="new",
            model=f"model-{n}",
            quantity=1,
            aspect_ratio="default",
            references=0,
            price=1,
        )
        for n in range(1, 20_001)
    ]
    page = plan_markdown(Plan(batch="b", prompts=tuple(prompts), balance=5))
    assert len(page.encode()) < 1_000_000
    assert "and 19800 more models" in page
    assert "of 20000." in page


# What cannot be planned.


def test_a_catalogue_that_cannot_be_read_is_an_unknown_price(
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Said, and no reason not to run; a ceiling that it cannot keep is refused, and nothing is asked."""
    with FaultyS3(sandbox.origin) as api:
        api.fault = lambda seen: Reply(b"no", 404) if seen.path.endswith("/models") else None
        credentials = generator.credentials.model_copy(
            update={"base_url": f"{api.url}/api/v1", "image_hosts": ["127.0.0.1"]}
        )
        settings: dict[str, Any] = {
            "generator": generator.model_copy(update={"credentials": credentials}),
            "bucket": bucket,
            "batch": "b",
            "prompts": ["a"],
        }
        state = plan_images(**settings, return_state=True)
        assert "1 prompt: 1 new; an unknown price; 100 in the account" in str(state.message)
        found = state.result()
        assert (found.price, found.balance_after) == (None, None)
        for call in (plan_images, generate_images):
            with pytest.raises(ApiError):
                call(**settings, max_credits=5)
            with pytest.raises(ApiError):
                call(**settings, approve_above=5)
        assert "prices must be known, and the catalogue cannot be read" in caplog.text
        assert sandbox.account.posts == 0
        assert generate_images(**settings).stored == 1


def test_what_cannot_work_is_named_with_its_line(
    plan: Planner, sandbox: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "list.csv"
    path.write_text("prompt,model\na,\nb,retired-1\n")
    with pytest.raises(InvalidInput, match="list.csv, line 3: model: the API has no 'retired-1'"):
        plan(prompts_from=str(path))
    assert sandbox.account.posts == 0


def test_what_may_not_work_is_said(plan: Planner, sandbox: Sandbox) -> None:
    models = sandbox.account.models
    models["nanobanan-2"] = replace(models["nanobanan-2"], supports_aspect_ratio=False)
    found = plan(
        "a",
        ImagePrompt(prompt="b", model="nanobanan-2", aspect_ratio="16:9"),
        ImagePrompt(prompt="c", model="nanobanan-2-2k"),
        batch="warned",
    )
    assert found.warnings == (
        "prompts, row 2: aspect_ratio: nanobanan-2 takes none: 16:9 may be ignored",
        "prompts, row 3: model: nanobanan-2-2k needs a paid plan: without one the API refuses, "
        "at no cost",
    )
    assert "What may not work" in _artifact("warned")


def test_a_ceiling_and_an_account_that_do_not_suffice_are_said(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    sandbox.account.credits = 2
    settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "batch": "b"}
    state = plan_images(prompts=["a", "b", "c"], max_credits=1, **settings, return_state=True)
    assert str(state.message).endswith(
        "3 credits; 2 in the account, 1 too few; max_credits ends it at 1"
    )
