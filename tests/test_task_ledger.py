"""Single tasks under retries of what is above them: nothing is paid twice, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.filesystems import LocalFileSystem
from prefect.task_runners import ProcessPoolTaskRunner

from prefect_nanobanana import (
    Generation,
    ImagePrompt,
    LedgerError,
    NanoBananaGenerator,
    UnknownOutcome,
    agenerate_image,
    generate_image,
)
from prefect_nanobanana._common.runs_above import takes_the_place
from prefect_nanobanana._task_ledger import TaskLedger, _Call
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
Fail = Callable[[], None]


def flow_around(generator: NanoBananaGenerator, fail: Fail, **settings: Any) -> Generation:
    @flow(retries=2, **settings)
    def mine() -> Generation:
        made = generate_image("a cat", generator)
        fail()
        return made

    return mine()


def async_flow_around(generator: NanoBananaGenerator, fail: Fail, **settings: Any) -> Generation:
    @flow(retries=2, **settings)
    async def mine() -> Generation:
        made = await agenerate_image("a cat", generator)
        fail()
        return made

    return asyncio.run(mine())


def task_around(generator: NanoBananaGenerator, fail: Fail, **settings: Any) -> Generation:
    @task(retries=2, cache_policy=NO_CACHE)
    def around() -> Generation:
        made = generate_image("a cat", generator)
        fail()
        return made

    @flow(**settings)
    def mine() -> Generation:
        return around()

    return mine()


def task_in_a_thread(generator: NanoBananaGenerator, fail: Fail, **settings: Any) -> Generation:
    @flow(retries=2, **settings)
    def mine() -> Generation:
        made: Generation = generate_image.submit("a cat", generator).result()
        fail()
        return made

    return mine()


def flow_in_a_flow(generator: NanoBananaGenerator, fail: Fail, **settings: Any) -> Generation:
    @flow
    def inner() -> Generation:
        return generate_image("a cat", generator)

    @flow(retries=2, **settings)
    def mine() -> Generation:
        made = inner()
        fail()
        return made

    return mine()


def task_without_a_flow(generator: NanoBananaGenerator, fail: Fail, **settings: Any) -> Generation:
    @task(retries=2, cache_policy=NO_CACHE)
    def around() -> Generation:
        made = generate_image("a cat", generator)
        fail()
        return made

    return around()


SHAPES = [
    *(flow_around, async_flow_around, task_around),
    *(task_in_a_thread, flow_in_a_flow, task_without_a_flow),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)


@shapes
def test_a_later_step_that_fails_pays_nothing_again(
    shape: Callable[..., Generation], generator: NanoBananaGenerator, fail_once: Fail, sandbox: Sandbox
) -> None:
    made = shape(generator, fail_once)
    assert made.status == "completed"
    assert made.image_urls
    assert sandbox.account.posts == sandbox.account.charged == 1


@shapes
def test_an_unknown_outcome_is_not_sent_again(
    shape: Callable[..., Generation], generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    sandbox.faults.queue("500")
    with pytest.raises(UnknownOutcome, match="an earlier attempt of this task has asked"):
        shape(generator, lambda: None)
    assert sandbox.account.posts == sandbox.account.charged == 1


def test_what_was_not_charged_is_sent(generator: NanoBananaGenerator, sandbox: Sandbox) -> None:
    sandbox.faults.queue("402")
    assert flow_around(generator, lambda: None).status == "completed"
    assert (sandbox.account.posts, sandbox.account.charged) == (2, 1)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_has_begun_is_waited_for(
    generator: NanoBananaGenerator, sandbox: Sandbox, kind: str
) -> None:
    """The first attempt gives up waiting; the second asks by the id, which costs nothing."""
    slow = generator.credentials.model_copy(update={"request_timeout_seconds": 1.0})
    waiting = generator.model_copy(update={"credentials": slow, "mode": "async"})
    sandbox.running.clear()

    @flow(retries=1)
    def mine() -> Generation:
        try:
            return generate_image("a cat", waiting)
        finally:
            sandbox.running.set()

    @flow(retries=1)
    async def amine() -> Generation:
        try:
            return await agenerate_image("a cat", waiting)
        finally:
            sandbox.running.set()

    made: Generation = mine() if kind == "sync" else asyncio.run(amine())
    assert made.status == "completed"
    assert made.image_urls
    assert sandbox.account.posts == sandbox.account.charged == 1


def test_what_was_paid_is_returned_though_it_cannot_be_noted(tmp_path: Path) -> None:
    ledger = TaskLedger(LocalFileSystem(basepath=str(tmp_path)), "calls/one.json", _Call(caller=()))

    @task
    def mine() -> Generation:
        assert ledger.claim(0)
        ledger.sending()
        shutil.rmtree(tmp_path / "calls")
        (tmp_path / "calls").write_text("a file where a folder should be")
        made = Generation(status="completed")
        ledger.answered(made)
        with pytest.raises(LedgerError):
            ledger.sending()
        return made

    assert mine().status == "completed"


def test_equal_calls_are_asked_each_and_stay_apart(
    generator: NanoBananaGenerator, sandbox: Sandbox, fail_once: Fail
) -> None:
    """In a loop, by `.map` and in another flow alike, also if the second attempt is in another order."""
    asked: list[list[str]] = []

    @flow
    def inner() -> list[Generation]:
        return [generate_image("a cat", generator)]

    @flow(retries=1, persist_result=True)
    def mine() -> None:
        texts = ["a dog", "a bird"]
        made = [generate_image("a cat", generator) for _ in range(2)]
        made += generate_image.map(["a cat", "a cat"], unmapped(generator)).result()
        made += inner() + inner()
        others = generate_image.map(texts if not asked else texts[::-1], unmapped(generator)).result()
        asked.append(sorted(str(one.image_urls) for one in made))
        asked.append(sorted(str(one.image_urls) for one in others))
        fail_once()

    mine()
    assert asked[:2] == asked[2:]
    assert len(set(asked[0])) == 6
    assert sandbox.account.posts == sandbox.account.charged == 8


def test_references_are_told_apart_by_what_their_queries_say(
    generator: NanoBananaGenerator, sandbox: Sandbox, fail_once: Fail
) -> None:
    """Which image it is may stand in the query alone; a signature there is another one each time."""
    made: list[dict[str, str]] = []

    @flow(retries=1)
    def mine() -> None:
        order = "12" if not made else "21"
        url = "https://host.example/image?id={}&X-Amz-Signature=" + order
        prompts = [ImagePrompt(prompt="a hat", reference_image_urls=[url.format(n)]) for n in order]
        answers = [generate_image(prompt, generator) for prompt in prompts]
        made.append({n: str(answer.image_urls) for n, answer in zip(order, answers, strict=True)})
        fail_once()

    mine()
    assert made[0] == made[1]
    assert sandbox.account.posts == sandbox.account.charged == 2


def test_another_run_asks_anew(generator: NanoBananaGenerator, sandbox: Sandbox) -> None:
    @flow
    def mine() -> None:
        generate_image("a cat", generator)
        generate_image.fn("a cat", generator)

    mine()
    mine()
    generate_image("a cat", generator)
    assert sandbox.account.posts == 5


def test_the_files_hold_no_key_and_lie_where_results_do(
    generator: NanoBananaGenerator, sandbox: Sandbox, tmp_path: Path
) -> None:
    @flow(result_storage=tmp_path, persist_result=False)
    def mine() -> None:
        generate_image("a secret cat", generator)

    mine()
    (path,) = tmp_path.rglob("nanobanana-calls/*/*.json")
    text = path.read_text("utf-8")
    assert json.loads(text)["state"] == "answered"
    assert sandbox.api_key not in text
    assert "cat" not in text


def test_where_nothing_can_be_noted_nothing_is_spent(
    generator: NanoBananaGenerator, sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "nanobanana-calls").write_text("a file where a folder should be")
    with pytest.raises(LedgerError, match="result_storage"):
        flow_around(generator, lambda: None, result_storage=tmp_path)
    assert sandbox.account.posts == 0


def test_a_broken_note_is_not_taken_for_none(
    generator: NanoBananaGenerator, sandbox: Sandbox, tmp_path: Path
) -> None:
    def spoil() -> None:
        (path,) = tmp_path.rglob("nanobanana-calls/*/*.json")
        path.write_text("{")
        raise RuntimeError("once more")

    with pytest.raises(LedgerError, match="remove it"):
        flow_around(generator, spoil, result_storage=tmp_path)
    assert sandbox.account.posts == 1


def test_in_processes_of_their_own(
    generator: NanoBananaGenerator, sandbox: Sandbox, fail_once: Fail
) -> None:
    """As with Dask and Ray, what is above is known from what Prefect has sent along."""

    runner: Any = ProcessPoolTaskRunner(max_workers=2)

    @flow(retries=1, task_runner=runner)
    def mine() -> list[Generation]:
        made: list[Generation] = generate_image.map(["a cat"] * 2, unmapped(generator)).result()
        fail_once()
        return made

    assert len({generation.image_urls for generation in mine()}) == 2
    assert sandbox.account.posts == sandbox.account.charged == 2


@pytest.mark.parametrize(
    ("mine", "earlier", "same"),
    [
        ([("root", 1), ("me", 1)], [("root", 1), ("me", 1)], True),
        ([("root", 2), ("me", 1)], [("root", 1), ("other", 1)], True),
        ([("root", 1), ("me", 2)], [("root", 1), ("me", 1)], True),
        ([("root", 1), ("me", 1)], [("root", 1), ("other", 1)], False),
        ([("root", 1), ("me", 1)], [("root", 2), ("other", 1)], False),
        ([("root", 1), ("flow", 2), ("me", 1)], [("root", 1), ("flow", 1), ("other", 3)], True),
        ([("root", 1), ("flow", 2), ("me", 1)], [("root", 1), ("beside", 1), ("other", 1)], False),
    ],
)
def test_which_calls_are_one_made_again(mine: Any, earlier: Any, same: bool) -> None:
    assert takes_the_place(tuple(mine), tuple(earlier)) is same
