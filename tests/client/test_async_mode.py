"""Async and stream mode: submissions that are polled, events, and runs that can be made again."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import SecretStr
from servers import Reply, Scripted, Seen

from prefect_nanobanana import (
    Generation,
    GenerationRun,
    InvalidInput,
    NanoBananaCredentials,
    NanoBananaGenerator,
    NotCharged,
    StillRunning,
    Submission,
    UnknownOutcome,
)
from prefect_nanobanana.client import AsyncNanoBananaClient, GenerationHooks, NanoBananaClient
from prefect_nanobanana.client._polling import Durations, durations_of
from prefect_nanobanana.client._secrets import Secrets
from prefect_nanobanana.client._sse import EventReader
from prefect_nanobanana.client._timings import Timings
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.slots._in_flight import InFlightLimit

Ask = Callable[..., Any]


class Notes(GenerationHooks):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.percents: list[tuple[int, str]] = []

    def sending(self) -> None:
        self.steps.append("sending")

    def not_charged(self, error: NotCharged) -> None:
        self.steps.append("not charged")

    def submitted(self, submission: Submission) -> None:
        self.steps.append("submitted")

    def progress(self, percent: int, message: str) -> None:
        self.percents.append((percent, message))

    def answered(self, generation: Generation) -> None:
        self.steps.append(generation.status)


def _sync(sandbox: Sandbox, method: str, *args: Any, **kwargs: Any) -> Any:
    with _client(NanoBananaClient, sandbox) as client:
        return getattr(client, method)(*args, **kwargs)


def _async(sandbox: Sandbox, method: str, *args: Any, **kwargs: Any) -> Any:
    async def run() -> Any:
        async with _client(AsyncNanoBananaClient, sandbox) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


def _client(kind: Any, sandbox: Sandbox) -> Any:
    return kind(sandbox.api_key, sandbox.base_url, request_timeout_seconds=5)


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("prompt", "fault", "status"),
    [("a", None, "completed"), ("nude", None, "warning"), ("a", "failed", "failed")],
)
@pytest.mark.parametrize("mode", ["async", "stream"])
def test_every_mode_comes_to_every_end(
    ask: Ask, sandbox: Sandbox, mode: str, prompt: str, fault: str | None, status: str
) -> None:
    sandbox.latency = (0.1, 0.1)
    sandbox.stream_ids = True
    sandbox.faults.queue(fault)
    notes = Notes()
    generation = ask(sandbox, "generate", prompt, mode=mode, hooks=notes)
    assert (generation.status, generation.mode, generation.credits_used) == (status, mode, 1)
    assert generation.remaining_credits == 99
    assert generation.generation_id == sandbox.account.rows[0].generation_id
    assert len(generation.image_urls) == (status == "completed")
    assert notes.steps == ["sending", "submitted", status]
    assert (sandbox.account.posts, sandbox.account.charged) == (1, 1)


def test_an_async_submission_holds_the_slot_and_nothing_after_it_does(
    generator: NanoBananaGenerator, sandbox: Sandbox, wait_for: Callable[..., None]
) -> None:
    generator.mode = "async"
    sandbox.running.clear()
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(generator.generate, f"p{n}") for n in range(4)]
        # The account may have one request open; all four generations are in flight.
        wait_for(lambda: len(sandbox.account.rows) == 4)
        sandbox.running.set()
        assert {run.result().status for run in runs} == {"completed"}
    assert (sandbox.account.most_open, sandbox.account.refusals) == (1, 0)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_polls_and_look_ups_take_no_slot(
    generator: NanoBananaGenerator, sandbox: Sandbox, kind: str
) -> None:
    run = generator.trigger("a cat")

    async def ask() -> Any:
        async with generator.credentials.get_async_client() as client:
            return await client.credits(), await run.afetch_result()  # type: ignore[union-attr]

    def work() -> Any:
        if kind == "async":
            return asyncio.run(ask())
        with generator.credentials.get_client() as client:
            return client.credits(), run.fetch_result()  # type: ignore[union-attr]

    with generator.credentials.slots.queue.slot(), ThreadPoolExecutor(1) as pool:
        credits, generation = pool.submit(work).result(20)
    assert (credits, generation.status) == (99, "completed")


def test_how_many_are_in_flight_follows_what_the_api_takes(
    generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    sandbox.async_capacity, sandbox.latency = 3, (0.05, 0.1)
    generator.mode = "async"
    with ThreadPoolExecutor(12) as pool:
        generations = list(pool.map(lambda n: generator.generate(f"p{n}"), range(12)))
    assert {generation.status for generation in generations} == {"completed"}
    assert sandbox.account.charged == 12, "what was refused was refunded"
    assert generator.credentials.slots.in_flight.limit <= 4
    refused = len(sandbox.account.rows) - 12
    assert refused <= 6, "after the first refusals as many are in flight as the API takes"


def test_one_more_in_flight_is_tried_after_a_while(wait_for: Callable[..., None]) -> None:
    limit = InFlightLimit(probe_after_seconds=0.3)
    for _ in range(3):
        limit.acquire()
    limit.accepted()
    limit.accepted()
    limit.rejected()
    assert limit.limit == 2
    assert limit.overbooked()
    limit.release()
    assert not limit.overbooked()
    wait_for(lambda: limit.limit == 3)
    limit.acquire()
    limit.accepted()
    assert limit.limit == 3
    for _ in range(3):
        limit.ended()
    limit.rejected()
    assert limit.limit == 1, "one is always tried"


@pytest.mark.parametrize("status", [401, 404])
def test_polls_that_are_refused_are_given_up_and_never_mean_that_nothing_was_charged(
    ask: Ask, sandbox: Sandbox, status: int
) -> None:
    def answer(seen: Seen) -> Reply:
        if seen.method == "POST":
            return Reply(b'{"success": true, "async": true, "generationId": "g1"}')
        return Reply(b'{"error": "no"}', status)

    with Scripted(answer) as server:
        sandbox_like = type("S", (), {"api_key": "k", "base_url": server.url})
        with pytest.raises(StillRunning, match="g1 was not seen to end .*no") as caught:
            ask(sandbox_like, "generate", "x", mode="async")
        assert not isinstance(caught.value, NotCharged)
        assert [seen.method for seen in server.seen] == ["POST", "GET", "GET", "GET"]


def test_a_deadline_leaves_the_id(ask: Ask, sandbox: Sandbox) -> None:
    sandbox.running.clear()
    submission = ask(sandbox, "submit", "a cat")
    with pytest.raises(StillRunning) as caught:
        ask(sandbox, "wait", submission.model_copy(update={"model": "m"}), elapsed_seconds=100)
    assert caught.value.generation_id == submission.generation_id
    sandbox.running.set()
    assert ask(sandbox, "wait", submission).status == "completed"
    assert ask(sandbox, "wait", Submission(generation_id=submission.generation_id)).credits_used == 1
    assert sandbox.account.posts == 1


@pytest.mark.parametrize(
    "body",
    [
        {"success": True, "async": True, "generationId": "g1"},
        {"success": True, "data": {"id": "g1", "processingStatus": "processing"}},
        {"success": True, "generationId": "g1", "id": 7},
        {"async": True, "generationId": None, "data": {"id": "g1"}},
    ],
)
def test_shapes_of_submissions(ask: Ask, body: dict[str, Any]) -> None:
    with Scripted(lambda _: Reply(json.dumps(body).encode())) as server:
        target = type("S", (), {"api_key": "k", "base_url": server.url})
        assert ask(target, "submit", "x").generation_id == "g1"


def test_a_server_that_ends_it_at_once(ask: Ask) -> None:
    body = {"success": True, "generationId": "g1", "imageUrls": ["https://e/1.png"], "creditsUsed": 1}
    with Scripted(lambda _: Reply(json.dumps(body).encode())) as server:
        target = type("S", (), {"api_key": "k", "base_url": server.url})
        notes = Notes()
        for mode in ("async", "stream"):
            generation = ask(target, "generate", "x", mode=mode, hooks=notes)
            assert generation.image_urls == ("https://e/1.png",)
        assert notes.steps == ["sending", "completed"] * 2
        assert ask(target, "submit", "x").status == "completed"


@pytest.mark.parametrize("mode", ["sync", "async", "stream"])
def test_a_lost_answer_that_names_its_generation_is_settled(ask: Ask, mode: str) -> None:
    def answer(seen: Seen) -> Reply:
        if seen.method == "POST":
            return Reply(b'{"error": "oops", "generationId": "g1"}', 500)
        assert seen.path.endswith("/generate?id=g1")
        data = {"processingStatus": "completed", "outputImageUrls": ["/x.png"], "creditsUsed": 2}
        return Reply(json.dumps({"data": data}).encode())

    with Scripted(answer) as server:
        target = type("S", (), {"api_key": "k", "base_url": server.url})
        notes = Notes()
        generation = ask(target, "generate", "x", mode=mode, hooks=notes)
    assert (generation.image_urls, generation.credits_used) == ((f"{server.url}/x.png",), 2)
    assert notes.steps == ["sending", "submitted", "completed"]
    assert [seen.method for seen in server.seen] == ["POST", "GET"]


def test_a_submission_without_an_id_is_unknown(ask: Ask) -> None:
    with Scripted(lambda _: Reply(b'{"success": true, "async": true}')) as server:
        target = type("S", (), {"api_key": "k", "base_url": server.url})
        with pytest.raises(UnknownOutcome, match="names no generation"):
            ask(target, "generate", "x", mode="async")
        assert len(server.seen) == 1


def test_hooks_under_their_former_name_are_told_with_a_warning(
    generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    notes = Notes()
    with pytest.warns(FutureWarning, match="hooks="):
        generator.generate("x", witness=notes)
    with pytest.warns(FutureWarning, match="hooks="):
        asyncio.run(generator.agenerate("x", witness=notes))
    submission = Submission(generation_id=sandbox.account.rows[0].generation_id)
    with pytest.warns(FutureWarning, match="hooks="):
        generator.wait(submission, witness=notes)
    assert notes.steps == ["sending", "completed", "sending", "completed", "completed"]


# Polling: the pace, simulated.


def _poll(durations: Durations, took: float) -> tuple[float, int]:
    """How late a generation is found to have ended, in seconds, and after how many requests."""
    elapsed, polls = 0.0, 0
    while True:
        elapsed += durations.delay_seconds(elapsed, Timings())
        polls += 1
        if elapsed >= took:
            durations.saw(elapsed)
            return elapsed - took, polls


@pytest.mark.parametrize(("low", "high"), [(12, 16), (10, 60), (28, 31)])
def test_polls_find_an_end_within_a_second_or_so_and_do_not_hammer(low: float, high: float) -> None:
    chance, durations = random.Random(1), Durations()
    found = [_poll(durations, chance.uniform(low, high)) for _ in range(500)]
    late = [seconds for seconds, _ in found[10:]]
    polls = [count for _, count in found[10:]]
    assert sum(late) / len(late) < 1.25
    # The vendor's own advice: wait 5 s, then ask every 3 s.
    advised = 1 + ((low + high) / 2 - 5) / 3
    assert sum(polls) / len(polls) <= advised + 2


def test_what_was_found_late_teaches_nothing(generator: NanoBananaGenerator, sandbox: Sandbox) -> None:
    ids = [generator.trigger("x").generation_id for _ in range(4)]  # type: ignore[union-attr]
    for generation_id in ids:
        submission = Submission(generation_id=generation_id)
        assert generator.wait(submission, elapsed_seconds=3600).status == "completed"
    assert not durations_of(sandbox.base_url, "nano-banana")._seconds


def test_the_vendors_pace_holds_until_something_is_known() -> None:
    durations = Durations()
    assert durations.delay_seconds(0, Timings()) == 5
    assert durations.delay_seconds(5.1, Timings()) == 3


# Streams.


def _events(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


STARTED = {"type": "status", "message": "Started", "progress": 5}
DONE = {
    "type": "complete",
    "progress": 100,
    "data": {"success": True, "imageUrls": ["https://e/1.png"], "creditsUsed": 1},
}
MESSY = (
    b": a comment\n\n"
    + _events(STARTED)
    + b"event: noise\nid: 7\nretry: 10\ndata: not json\n\ndata: [1]\n\ndata\n\n\n\n"
    + b'data: {"type": "status", "progress": 0,\ndata:  "message": "heartbeat"}\n\n'
    + _events({"type": "status", "progress": "many"}, {"type": "strange"}, {"progress": 60})
    + _events(DONE, {"type": "status", "progress": 70}, {"type": "error", "message": "late"})
)


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_events_however_they_are_split_and_whatever_stands_between(size: int, ends: bytes) -> None:
    text = MESSY.replace(b"\n", ends)
    reader = EventReader()

    def read() -> Iterator[dict[str, Any]]:
        for start in range(0, len(text), size):
            yield from reader.feed(text[start : start + size])
        yield from reader.feed(b"")

    events = list(read())
    assert events[0] == STARTED
    assert [event.get("message") for event in events][:2] == ["Started", "heartbeat"]
    assert DONE in events
    assert len(events) == 8


def test_an_event_whose_end_is_the_streams_end() -> None:
    reader = EventReader()
    assert list(reader.feed(b'data: {"type": "complete"}')) == []
    assert list(reader.feed(b"")) == [{"type": "complete"}]


def test_an_event_without_end_is_dropped() -> None:
    reader = EventReader(Secrets("secret"), max_bytes=100)
    assert list(reader.feed(b"data: " + b"x" * 200)) == []
    assert list(reader.feed(b'\n\ndata: {"a": "secret"}\n\n')) == [{"a": "[key]"}]


def _stream_server(body: bytes, **reply: Any) -> Scripted:
    headers = {"Content-Type": "text/event-stream; charset=utf-8"}

    def answer(seen: Seen) -> Reply:
        if seen.method == "GET":
            return Reply(b'{"data": {"processingStatus": "completed", "outputImageUrls": ["/x.png"]}}')
        return Reply(body, headers=headers, length=reply.get("length", -1))

    return Scripted(answer)


def test_progress_rises_and_garbage_does_no_harm(ask: Ask) -> None:
    with _stream_server(MESSY) as server:
        notes = Notes()
        target = type("S", (), {"api_key": "k", "base_url": server.url})
        generation = ask(target, "generate", "x", mode="stream", hooks=notes)
    assert generation.image_urls == ("https://e/1.png",)
    assert generation.message is None
    assert notes.percents == [(5, "Started"), (60, "")]


def test_a_stream_that_goes_on_after_its_last_event_is_left(ask: Ask) -> None:
    body = _events(STARTED, DONE) + b": still here\n\n" * 400
    headers = {"Content-Type": "text/event-stream"}
    with Scripted(lambda _: Reply(body, headers=headers, length=-1, drip_seconds=0.002)) as server:
        target = type("S", (), {"api_key": "k", "base_url": server.url})
        assert ask(target, "generate", "x", mode="stream").status == "completed"


def test_a_large_event_is_read_in_good_time() -> None:
    reader = EventReader()
    pieces = [b"data: ", *[b'"' + b"x" * 16_384 + b'"'] * 2000]
    assert [event for piece in pieces for event in reader.feed(piece)] == []
    assert len(reader._line) == 2001, "pieces are not joined before their line ends"


def test_a_stream_that_is_cut_after_its_last_event_is_whole(ask: Ask) -> None:
    with _stream_server(_events(STARTED, DONE), length=10_000) as server:
        target = type("S", (), {"api_key": "k", "base_url": server.url})
        assert ask(target, "generate", "x", mode="stream").status == "completed"
        assert len(server.seen) == 1


@pytest.mark.parametrize("length", [-1, 10_000], ids=["closed", "cut"])
def test_a_stream_that_ends_too_early(ask: Ask, length: int) -> None:
    with _stream_server(_events(STARTED), length=length) as server:
        target = type("S", (), {"api_key": "k", "base_url": server.url})
        with pytest.raises(UnknownOutcome) as caught:
            ask(target, "generate", "x", mode="stream")
        assert caught.value.generation_id is None
        assert len(server.seen) == 1, "it is not sent again"
    named = {**STARTED, "data": {"generationId": "g1"}}
    with _stream_server(_events(named), length=length) as server:
        target = type("S", (), {"api_key": "k", "base_url": server.url})
        notes = Notes()
        generation = ask(target, "generate", "x", mode="stream", hooks=notes)
        assert generation.image_urls == (f"{server.url}/x.png",)
        assert notes.steps == ["sending", "submitted", "submitted", "completed"]
        assert [seen.method for seen in server.seen] == ["POST", "GET"]


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"type": "error", "message": "Content safety check failed"}, "warning"),
        ({"type": "error", "message": "x", "data": {"warning": True, "creditsUsed": 1}}, "warning"),
        ({"type": "error", "message": "no image"}, "failed"),
        ({"type": "complete", "data": {"success": False, "error": "no"}}, "failed"),
    ],
)
def test_ends_of_streams(ask: Ask, event: dict[str, Any], status: str) -> None:
    with _stream_server(_events(STARTED, event)) as server:
        target = type("S", (), {"api_key": "k", "base_url": server.url})
        assert ask(target, "generate", "x", mode="stream").status == status


def test_a_complete_event_without_an_image_is_unknown(ask: Ask) -> None:
    with _stream_server(_events({"type": "complete"})) as server:
        target = type("S", (), {"api_key": "k", "base_url": server.url})
        with pytest.raises(UnknownOutcome, match="names no image"):
            ask(target, "generate", "x", mode="stream")


def test_the_key_is_taken_out_of_events(ask: Ask) -> None:
    body = _events({"type": "status", "progress": 3, "message": "key nb_secret here"})
    body += _events({"type": "error", "message": "bad key nb_secret"})
    with _stream_server(body) as server:
        target = type("S", (), {"api_key": "nb_secret", "base_url": server.url})
        notes = Notes()
        generation = ask(target, "generate", "x", mode="stream", hooks=notes)
    assert notes.percents == [(3, "key [key] here")]
    assert generation.message == "bad key [key]"


def test_streams_make_one_image(generator: NanoBananaGenerator, sandbox: Sandbox) -> None:
    generator.mode = "stream"
    with pytest.raises(InvalidInput, match="quantity: stream mode makes one image, not 2"):
        generator.generate("x", quantity=2)
    assert sandbox.account.posts == 0


# Prefect's JobBlock interface.


def test_trigger_wait_fetch(generator: NanoBananaGenerator, sandbox: Sandbox) -> None:
    sandbox.running.clear()
    run = generator.trigger("a cat", quantity=2)
    assert isinstance(run, GenerationRun)
    assert sandbox.account.charged == 2
    again = pickle.loads(pickle.dumps(run))
    assert repr(again) == f"GenerationRun({run.generation_id!r})"
    sandbox.running.set()
    assert run.wait_for_completion() is None
    for same in (run, again, generator.generation_run(run.generation_id)):
        assert len(same.fetch_result().image_urls) == 2  # type: ignore[union-attr]
    assert sandbox.account.posts == 1


def test_trigger_from_async_code(generator: NanoBananaGenerator, sandbox: Sandbox) -> None:
    async def run() -> Generation:
        # As code that knows only Prefect's interface writes it.
        begun = await generator.trigger("nude")  # type: ignore[misc]
        await begun.wait_for_completion()
        assert (await (await generator.atrigger("b")).afetch_result()).status == "completed"
        return await begun.fetch_result()  # type: ignore[no-any-return]

    generation = asyncio.run(run())
    assert (generation.status, generation.credits_used) == ("warning", 1)
    assert sandbox.account.posts == 2


def test_a_run_that_is_not_over_in_time() -> None:
    with Sandbox(picture_pixels=32) as sandbox:
        credentials = NanoBananaCredentials(
            api_key=SecretStr(sandbox.api_key), base_url=sandbox.base_url, request_timeout_seconds=1.5
        )
        sandbox.running.clear()
        run = NanoBananaGenerator(credentials=credentials).trigger("a cat")
        with pytest.raises(StillRunning):
            run.fetch_result()  # type: ignore[union-attr]
        sandbox.running.set()
        assert run.fetch_result().status == "completed"  # type: ignore[union-attr]


def test_a_run_that_was_over_at_once(generator: NanoBananaGenerator) -> None:
    body = {"success": False, "warning": True, "generationId": "g1"}
    with Scripted(lambda _: Reply(json.dumps(body).encode())) as server:
        generator.credentials = NanoBananaCredentials(api_key=SecretStr("k"), base_url=server.url)
        run = generator.trigger("x")
        assert run.fetch_result().status == "warning"  # type: ignore[union-attr]
        assert len(server.seen) == 1
