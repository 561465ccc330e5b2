"""Random catalogues, lists and answers against a budget that two runs share at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from memory_s3 import MemoryS3
from odd_api import OddApi
from prefect_aws import S3Bucket
from pydantic import SecretStr
from test_property_money import MODELS, World, _worlds, any_answers, telling

from prefect_nanobanana import InvalidInput, NanoBananaCredentials, NanoBananaGenerator, RunReport
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.flows import generate_images

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]
MakeBucket = Callable[..., S3Bucket]
BATCHES = ("one", "two")
worlds = _worlds(any_answers, st.integers(0, 25)) | _worlds(telling, st.integers(1, 16))


def _surprise(world: World, text: str) -> int:
    """How much more a request costs than the catalogue says."""
    answer = world.answers[text]
    return max(0, world.cost(text) - int(world.prices[answer.model].listed) * answer.quantity)


def _most(world: World) -> int:
    """What may be charged at most, as docs/money.md says it.

    Until an answer tells a model's price, all that is under way at that moment may cost more than is
    known; and a request whose cost no answer tells counts at the price that is known.
    """
    assert world.max_credits is not None
    texts = [*world.texts] * len(BATCHES)
    under_way = len(texts) if world.mode == "async" else len(BATCHES) * world.slots
    overrun = 0
    for model in MODELS:
        surprises = sorted(
            (_surprise(world, t) for t in texts if world.answers[t].model == model), reverse=True
        )
        overrun += sum(surprises[:under_way])
    untold = (
        t for t in texts if world.answers[t].end == "unknown" or world.answers[t].number == "missing"
    )
    return world.max_credits + overrun + sum(_surprise(world, text) for text in untold)


@pytest.mark.timeout(900)
@settings(
    deadline=None,
    derandomize=True,  # a change must not fail by chance; raise max_examples to search
    max_examples=14,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
@given(world=worlds)
def test_no_price_or_answer_breaks_a_budget(make_bucket: MakeBucket, world: World) -> None:
    with OddApi(world.answers, world.prices) as api, MemoryS3() as store:
        bucket = make_bucket(endpoint_url=store.url)
        assert world.max_credits is not None
        budget = NanoBananaBudget(credits=world.max_credits, bucket=bucket)
        credentials = NanoBananaCredentials(
            api_key=SecretStr("nb_key"),
            base_url=f"{api.url}/api/v1",
            max_concurrent_requests=world.slots,
        )
        generator = NanoBananaGenerator(credentials=credentials, mode=world.mode)

        def run(batch: str) -> RunReport:
            report: Any = generate_images(
                prompts=[*world.prompts()],
                generator=generator,
                bucket=bucket,
                batch=batch,
                budget=budget,
                fail_on="never",
            )
            assert isinstance(report, RunReport)
            return report

        if world.is_refused():
            with pytest.raises(InvalidInput):
                run("one")
            assert not api.posts
            return
        with ThreadPoolExecutor(len(BATCHES)) as pool:
            started = [pool.submit(copy_context().run, run, batch) for batch in BATCHES]
            reports = [each.result() for each in started]
        charged = api.charged.total()
        assert charged <= _most(world)
        known = sum(report.credits_used + report.credits_at_risk for report in reports)
        assert budget.left() == max(0, world.max_credits - known), "nothing stays set aside"
        # The same again spends what is left, and no more.
        for batch in BATCHES:
            run(batch)
        assert api.charged.total() <= _most(world)
