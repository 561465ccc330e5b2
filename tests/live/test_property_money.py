"""Random catalogues, answers, ceilings and parents, against what was charged."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from memory_s3 import MemoryS3
from odd_api import NOT_LISTED, Answer, End, OddApi, Price
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect_aws import S3Bucket
from pydantic import SecretStr

from prefect_nanobanana import (
    Generation,
    ImagePrompt,
    InvalidInput,
    NanoBananaCredentials,
    NanoBananaGenerator,
    Outcome,
    RunFailed,
    RunReport,
    UnknownOutcome,
    generate_image,
)
from prefect_nanobanana.flows import generate_images

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]
MakeBucket = Callable[..., S3Bucket]
Retried = Literal["nothing", "a flow above", "a task above", "the run itself"]
MODELS = ("nano-banana", "nanobanan-2")
STATUS = {
    "completed": "stored",
    "warning": "warning",
    "failed": "failed",
    "refused": "failed",
    "unknown": "unknown",
}


@dataclass(frozen=True)
class World:
    """What is asked for, what the API makes of it, and under which conditions."""

    texts: list[str]
    answers: dict[str, Answer]
    prices: dict[str, Price]
    max_credits: int | None
    slots: int
    mode: Literal["sync", "async"]
    retried: Retried = "nothing"

    def prompts(self) -> list[ImagePrompt]:
        asked = [(text, self.answers[text]) for text in self.texts]
        return [ImagePrompt(prompt=t, model=a.model, quantity=a.quantity) for t, a in asked]

    def cost(self, text: str) -> int:
        answer = self.answers[text]
        return self.prices[answer.model].charged * answer.quantity

    def is_refused(self) -> bool:
        """Whether the run must end before it spends."""
        listed = {name: self.prices[name].listed for name in {self.answers[t].model for t in self.texts}}
        if listed.get(MODELS[1]) is NOT_LISTED:
            return True
        prices = [None if price is NOT_LISTED else price for price in listed.values()]
        return self.max_credits is not None and any(not price or int(price) <= 0 for price in prices)


def _answers(ends: list[End], models: list[str], numbers: list[Any]) -> st.SearchStrategy[Answer]:
    return st.builds(
        Answer,
        end=st.sampled_from(ends),
        model=st.sampled_from(models),
        quantity=st.integers(1, 3),
        more=st.integers(-1, 1),
        number=st.sampled_from(numbers),
        word=st.integers(0, 2),
        urls=st.sampled_from(["imageUrls", "outputImageUrls", "outputImageUrl"]),
        flag=st.booleans(),
        status=st.sampled_from([200, 201]),
        envelope=st.booleans(),
        begun=st.booleans(),
        refused_pictures=st.booleans(),
    )


def _worlds(
    answers: st.SearchStrategy[Answer], ceilings: st.SearchStrategy[int | None], texts: str = "abcdef"
) -> st.SearchStrategy[World]:
    return st.builds(
        World,
        texts=st.lists(st.sampled_from(texts), min_size=1, max_size=len(texts)),
        answers=st.fixed_dictionaries(dict.fromkeys(texts, answers)),
        prices=st.fixed_dictionaries(dict.fromkeys(MODELS, prices)),
        max_credits=ceilings,
        slots=st.integers(1, 8),
        mode=st.sampled_from(["sync", "async"]),
        retried=st.sampled_from(["nothing", "a flow above", "a task above", "the run itself"]),
    )


prices = st.builds(
    Price,
    listed=st.sampled_from([*[1] * 9, "1", 2, 2, 0, -1, None, NOT_LISTED]),
    charged=st.integers(1, 4),
)
answered: list[End] = ["completed", "completed", "completed", "warning", "failed", "refused"]
any_answers = _answers(
    [*answered, "unknown"], [MODELS[0], *MODELS], ["number", "number", "text", "float", "missing"]
)
# Where one model is asked and each answer tells its cost, a ceiling leaves no room.
telling = _answers(answered, [MODELS[0]], ["number", "text", "float"])
worlds = _worlds(any_answers, st.none() | st.integers(0, 25)) | _worlds(telling, st.integers(1, 12))


@dataclass
class Books:
    """The runs of one world."""

    world: World
    api: OddApi
    bucket: S3Bucket
    reports: list[RunReport] = field(default_factory=list)

    def generator(self) -> NanoBananaGenerator:
        credentials = NanoBananaCredentials(
            api_key=SecretStr("nb_key"),
            base_url=f"{self.api.url}/api/v1",
            max_concurrent_requests=self.world.slots,
        )
        return NanoBananaGenerator(credentials=credentials, mode=self.world.mode)

    def run(self, retries: int = 0, **changes: Any) -> RunReport:
        job = generate_images.with_options(retries=retries)
        settings: dict[str, Any] = {
            "generator": self.generator(),
            "bucket": self.bucket,
            "max_credits": self.world.max_credits,
            "fail_on": "error" if retries else "never",
        }
        try:
            report: Any = job(prompts=self.world.prompts(), **settings | changes)
        except RunFailed as error:
            report = error.report
        assert isinstance(report, RunReport)
        self.reports.append(report)
        return report

    def run_under_retries(self) -> None:
        """Run once, or in two attempts of what is retried."""
        left = [1]

        def later_step() -> None:
            if left:
                left.pop()
                raise RuntimeError("a later step")

        @flow(retries=2)
        def parent() -> None:
            self.run()
            later_step()

        @task(retries=2, cache_policy=NO_CACHE)
        def around() -> None:
            self.run()
            later_step()

        match self.world.retried:
            case "a flow above":
                parent()
            case "a task above":
                around()
            case "the run itself":
                self.run(retries=1)
            case "nothing":
                self.run()

    def check(self, report: RunReport) -> None:
        """What is promised of every report, whatever happened before."""
        counts = (report.stored, report.warnings, report.failed, report.unknown, report.skipped)
        assert sum(counts) == report.prompts == len(self.world.texts)
        self.check_charges()
        for outcome in report.outcomes:
            if outcome.status != "skipped":
                self._check_outcome(outcome)
        assert report.credits_of_others in (None, 0), "nobody else spends from this account"
        told = report.credits_used + report.credits_reused
        sure = sum(o.credits_used for o in report.outcomes if not _is_uncertain(o))
        charged = sum(c for text, c in self.api.charges if not self._is_untold(text))
        assert sure == charged
        assert told - sure == sum(o.credits_used for o in report.outcomes if _is_uncertain(o))

    def check_charges(self) -> None:
        """Each prompt is charged at most once, whatever became of it."""
        wanted, charged = Counter(self.world.texts), Counter(text for text, _ in self.api.charges)
        assert charged <= wanted, f"paid twice: {charged}"
        sent = Counter(
            {t: n for t, n in self.api.posts.items() if self.world.answers[t].end != "refused"}
        )
        assert sent == charged, "what was charged is not asked again"

    def _check_outcome(self, outcome: Outcome) -> None:
        text = outcome.prompt.prompt
        answer = self.world.answers[text]
        assert outcome.status == STATUS[answer.end], outcome.message
        if answer.end in ("refused", "unknown"):
            assert outcome.credits_used == 0
            assert outcome.message
        else:
            assert outcome.credits_estimated == self._is_untold(text)
            assert outcome.credits_estimated or outcome.credits_used == self.world.cost(text)
        if answer.end == "completed" and answer.pictures < answer.quantity:
            assert f"{answer.quantity} asked for" in str(outcome.message)

    def _is_untold(self, text: str) -> bool:
        answer = self.world.answers[text]
        return answer.end == "unknown" or answer.number == "missing"

    def check_pictures(self, report: RunReport, store: MemoryS3) -> None:
        """What was served is in the store, byte for byte, or named where it still can be had."""
        images = {image.sha256: image for outcome in report.outcomes for image in outcome.images}
        named = {url for o in report.outcomes if o.generation for url in o.generation.image_urls}
        for path, (text, content) in self.api.pictures.items():
            assert self.api.url + path in named
            if self.world.answers[text].end == "completed":
                image = images.pop(hashlib.sha256(content).hexdigest())
                assert store.objects[image.key][0] == content
        assert not images, "nothing else is called a picture"

    def most(self) -> int:
        """What may be charged under the ceiling, as docs/credits.md says it.

        The first request for a model may cost more than is left; what no answer tells the price of
        counts at the price that is known.
        """
        assert self.world.max_credits is not None
        charged = self.api.charges
        hidden = sum(self._surprise(text) for text, _ in charged if self._is_untold(text))
        first: dict[str, int] = {}
        for text, _ in charged:
            model = self.world.answers[text].model
            first[model] = max(first.get(model, 0), self._surprise(text))
        if len(first) <= 1 and not hidden:
            return max(self.world.max_credits, *(cost for _, cost in charged), 0)
        return self.world.max_credits + hidden + sum(first.values())

    def _surprise(self, text: str) -> int:
        """How much more a request costs than the catalogue says."""
        answer = self.world.answers[text]
        return max(
            0, self.world.cost(text) - int(self.world.prices[answer.model].listed) * answer.quantity
        )


def _is_uncertain(outcome: Outcome) -> bool:
    return outcome.status == "unknown" or outcome.credits_estimated


common = settings(
    deadline=None,
    derandomize=True,  # a change must not fail by chance; raise max_examples to search
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # to make an example smaller takes five minutes
)


@pytest.mark.timeout(900)
@settings(common, max_examples=30)
@given(world=worlds)
def test_no_price_answer_or_parent_breaks_the_books(make_bucket: MakeBucket, world: World) -> None:
    """A run, in two attempts of what is retried, and another run of the batch without a ceiling."""
    with OddApi(world.answers, world.prices) as api, MemoryS3() as store:
        books = Books(world, api, make_bucket(endpoint_url=store.url))
        if world.is_refused():
            with pytest.raises(InvalidInput):
                books.run_under_retries()
            assert not api.posts
            return
        books.run_under_retries()
        report = books.reports[-1]
        books.check(report)
        if world.max_credits is not None:
            assert api.charged.total() <= books.most()
        assert len({report.batch for report in books.reports}) == 1
        last = books.run(batch=report.batch, max_credits=None)
        books.check(last)
        books.check_pictures(last, store)
        assert last.skipped == 0


@pytest.mark.timeout(900)
@settings(common, max_examples=16)
@given(
    world=_worlds(any_answers, st.none(), "abcd"),
    above=st.sampled_from(["a flow", "a flow whose tasks run in threads", "a task"]),
)
def test_no_answer_is_paid_again_by_tasks_under_retries(
    make_bucket: MakeBucket, world: World, above: str
) -> None:
    attempts: list[list[Any]] = []
    with OddApi(world.answers, world.prices) as api:
        books = Books(world, api, make_bucket())
        generator = books.generator()
        call = generate_image.submit if "threads" in above else generate_image

        def parent() -> None:
            states = [call(prompt, generator, return_state=True) for prompt in world.prompts()]
            attempts.append([state.result(raise_on_failure=False) for state in states])
            if len(attempts) == 1:
                raise RuntimeError("a later step")

        if above == "a task":
            task(retries=2, cache_policy=NO_CACHE)(parent)()
        else:
            flow(retries=2)(parent)()
        books.check_charges()
        assert len(attempts) == 2
        for text, *made in zip(world.texts, *attempts, strict=True):
            answer = world.answers[text]
            if answer.end == "unknown":
                assert all(isinstance(each, UnknownOutcome) for each in made)
            elif answer.end != "refused":
                assert made[0] == made[1]
                assert made[0].status == answer.end
                told = None if answer.number == "missing" else world.cost(text)
                assert made[0].credits_used == told
        named = {u for each in attempts[1] if isinstance(each, Generation) for u in each.image_urls}
        assert named == {api.url + path for path in api.pictures}
