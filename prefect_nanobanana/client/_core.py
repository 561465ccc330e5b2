"""What both clients do, without doing it: requests in their order, and what their answers mean.

Each operation is a generator of steps. The sync and the async client perform the steps, and send
back, or throw in, what came of them: so the rules about money are written once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from prefect_nanobanana._common.backoff import Backoff
from prefect_nanobanana._common.http import USER_AGENT
from prefect_nanobanana._common.tls import tls
from prefect_nanobanana.client._answers import (
    Answer,
    read_credits,
    read_generation,
    read_models,
    read_status,
    read_submission,
)
from prefect_nanobanana.client._polling import Stopwatch, durations_of
from prefect_nanobanana.client._steps import (
    Ask,
    Board,
    EventStream,
    Gate,
    GenerationHooks,
    Open,
    Overbooked,
    Sleep,
    Steps,
)
from prefect_nanobanana.errors import (
    AnswerNotUnderstood,
    ApiError,
    NeverDelivered,
    NotCharged,
    Paced,
    Rejected,
    StillRunning,
    UnknownOutcome,
)
from prefect_nanobanana.models import (
    DEFAULT_ASPECT_RATIO,
    Credits,
    Generation,
    ImageModel,
    Mode,
    Submission,
)

DEFAULT_BASE_URL = "https://www.nananobanana.com/api/v1"
"""Where the API is (seed document)."""
DEFAULT_REQUEST_TIMEOUT_SECONDS = 180.0
"""The vendor asks for at least 120 s; a generation takes 10 to 60 s (seed document)."""
CONNECT_TIMEOUT_SECONDS = 10.0
LOOK_UP_TIMEOUT_SECONDS = 30.0
"""For an answer that nothing is made for: models, credits, whether a generation has ended."""
DEFAULT_RETRY_FOR_SECONDS = 900.0
"""How long a request that was not charged is tried again: minutes, as another run may hold the slot."""
READ_RETRY_FOR_SECONDS = 30.0
"""How long a failed look-up (models, credits) is tried again."""
SETTLE_FOR_SECONDS = 30.0
"""How long the end of a generation is asked for at least, however long ago it was begun."""
JUST_NOW_SECONDS = 1.0
"""A generation that was begun less long ago has not ended."""
REFUSED_POLLS = 3
"""So many refusals in a row, and asking for a generation's end is given up."""
MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""Answers may hold images as `data:` URLs; more than this is not an answer."""

T = TypeVar("T")


class Core:
    """What the two clients share: everything but the waiting."""

    def __init__(
        self,
        api_key: str,
        base_url: str = DEFAULT_BASE_URL,
        *,
        request_timeout_seconds: float = DEFAULT_REQUEST_TIMEOUT_SECONDS,
        retry_for_seconds: float = DEFAULT_RETRY_FOR_SECONDS,
        gate: Gate | None = None,
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url.rstrip("/")
        self._timeout = request_timeout_seconds
        self._retry_for = retry_for_seconds
        self._gate: Gate = gate or Open()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url!r})"

    def _options(self) -> dict[str, Any]:
        return {
            "headers": {"user-agent": USER_AGENT, "accept": "application/json, text/event-stream"},
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=0),
            "follow_redirects": False,
            "verify": tls(),
        }

    def _generate_request(
        self,
        prompt: str,
        *,
        model: str,
        aspect_ratio: str,
        quantity: int,
        reference_image_urls: Sequence[str],
        mode: Mode,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"prompt": prompt, "selectedModel": model, "mode": mode}
        # What stands at the API's own default is left out.
        if aspect_ratio != DEFAULT_ASPECT_RATIO:
            body["aspectRatio"] = aspect_ratio
        if quantity != 1:
            body["quantity"] = quantity
        if reference_image_urls:
            body["referenceImageUrls"] = list(reference_image_urls)
        return self._request("/generate", body)

    def _generating(
        self, prompt: str, *, model: str, mode: Mode, hooks: GenerationHooks | None, **settings: Any
    ) -> Steps[Generation]:
        """Have images made."""
        hooks, stopwatch = hooks or GenerationHooks(), Stopwatch()
        try:
            if mode == "async":
                return (yield from self._in_flight(prompt, model=model, hooks=hooks, **settings))
            return (yield from self._at_once(prompt, model=model, mode=mode, hooks=hooks, **settings))
        except UnknownOutcome as error:
            if error.generation_id is None or isinstance(error, StillRunning):
                raise
            # It has a name: its end can be asked for, which costs nothing.
            lost = error
        submission = Submission(generation_id=str(lost.generation_id), model=model, mode=mode)
        hooks.submitted(submission)
        return (yield from self._ending(submission, hooks, stopwatch, lost, ask_first=True))

    def _at_once(
        self, prompt: str, *, model: str, mode: Mode, hooks: GenerationHooks, **settings: Any
    ) -> Steps[Generation]:
        """Ask and have the answer in the same request; ask again only where nothing was charged."""
        request = self._generate_request(prompt, model=model, mode=mode, **settings)
        stream = EventStream(self._api_key, model, hooks) if mode == "stream" else None

        def read(answer: Answer) -> Generation:
            if stream is not None and stream.seen:
                return stream.ended(self._base_url)
            return read_generation(answer, base_url=self._base_url, model=model, mode=mode)

        backoff = Backoff(self._retry_for)
        while True:
            try:
                generation: Generation = yield Ask(request, read, hooks, stream)
                return generation
            except NotCharged as error:
                delay = backoff.delay_seconds(error)
            yield Sleep(delay)

    def _in_flight(
        self, prompt: str, *, model: str, hooks: GenerationHooks, **settings: Any
    ) -> Steps[Generation]:
        """Submit and wait; one generation of those that the API has room for."""
        found = yield from self._boarding(prompt, model=model, hooks=hooks, **settings)
        try:
            if isinstance(found, Generation):
                return found
            return (yield from self._ending(found, hooks, Stopwatch()))
        finally:
            self._gate.leave(boarded=True)

    def _submitting(
        self, prompt: str, *, model: str, hooks: GenerationHooks | None, **settings: Any
    ) -> Steps[Submission | Generation]:
        """Submit and do not wait; how many are in flight is then not known here."""
        hooks = hooks or GenerationHooks()
        found = yield from self._boarding(prompt, model=model, hooks=hooks, **settings)
        self._gate.leave(boarded=True)
        return found

    def _boarding(
        self, prompt: str, *, model: str, hooks: GenerationHooks, **settings: Any
    ) -> Steps[Submission | Generation]:
        """Submit, again after each refusal; what comes back has still to `leave`."""
        request = self._generate_request(prompt, model=model, mode="async", **settings)

        def read(answer: Answer) -> Submission | Generation:
            return read_submission(answer, base_url=self._base_url, model=model)

        backoff = Backoff(self._retry_for)
        refused = aboard = False
        try:
            while True:
                yield Board(first=refused)
                aboard = True
                try:
                    found: Submission | Generation = yield Ask(request, read, hooks, boards=True)
                    self._gate.boarded()
                    return found
                except Overbooked:
                    delay, refused = 0.0, True
                except NotCharged as error:
                    delay, refused = backoff.delay_seconds(error), True
                # Others may use the room meanwhile.
                self._gate.leave(boarded=False)
                aboard = False
                yield Sleep(delay)
        except BaseException:
            if aboard:
                self._gate.leave(boarded=False)
            raise

    def _waiting(
        self, submission: Submission, elapsed: float | None, hooks: GenerationHooks | None
    ) -> Steps[Generation]:
        """Ask for the end of what was submitted; at once, if that was some time ago."""
        hooks, just_now = hooks or GenerationHooks(), elapsed is not None and elapsed < JUST_NOW_SECONDS
        stopwatch = Stopwatch(elapsed or 0.0)
        return (yield from self._ending(submission, hooks, stopwatch, ask_first=not just_now))

    def _ending(
        self,
        submission: Submission,
        hooks: GenerationHooks,
        stopwatch: Stopwatch,
        problem: ApiError | None = None,
        *,
        ask_first: bool = False,
    ) -> Steps[Generation]:
        """Ask for a generation's end until it is there, or the time is up.

        Nothing that goes wrong here is `NotCharged`: the generation itself has begun.
        """
        model, generation_id = submission.model, submission.generation_id
        past = durations_of(self._base_url, model)
        until = max(self._timeout, stopwatch.elapsed + SETTLE_FOR_SECONDS * ask_first)
        refusals = polls = 0
        from_the_start = not ask_first

        def read(answer: Answer) -> Generation | None:
            return read_status(answer, base_url=self._base_url, model=model, mode=submission.mode)

        request = self._request("/generate", params={"id": generation_id})
        while refusals < REFUSED_POLLS:
            delay = 0.0 if ask_first else past.delay_seconds(stopwatch.elapsed)
            if isinstance(problem, Paced):
                delay = max(delay, problem.retry_after_seconds or 0.0)
            left = until - stopwatch.elapsed
            if left <= 0 and polls:
                break
            ask_first = False
            polls += 1
            yield Sleep(max(0.0, min(delay, left)))
            try:
                found: Generation | None = yield Ask(request, read)
            except ApiError as error:
                problem = error
                refusals = refusals + 1 if isinstance(error, Rejected) else 0
                continue
            problem, refusals = None, 0
            if found is not None:
                if from_the_start:  # else it was found long after it had ended
                    past.saw(stopwatch.elapsed)
                generation = found.model_copy(
                    update={
                        "generation_id": generation_id,
                        # Nothing that was taken at submission is given back (vendor's documentation).
                        "credits_used": _larger(found.credits_used, submission.credits_used),
                        "remaining_credits": submission.remaining_credits
                        if found.remaining_credits is None
                        else found.remaining_credits,
                    }
                )
                hooks.answered(generation)
                return generation
        why = f" (the last answer: {problem.message})" if problem else ""
        raise StillRunning(
            f"generation {generation_id} was not seen to end within "
            f"{stopwatch.elapsed:.0f} s{why}; its id "
            "is kept",
            status_code=problem.status_code if problem else None,
            generation_id=generation_id,
        )

    def _credits_of(self) -> Steps[Credits]:
        return self._look_up("/credits", read_credits)

    def _models_of(self) -> Steps[list[ImageModel]]:
        return self._look_up("/models", read_models)

    def _look_up(self, path: str, read: Callable[[Answer], T]) -> Steps[T]:
        # A look-up costs nothing, so every passing fault may be tried again.
        backoff = Backoff(READ_RETRY_FOR_SECONDS, again=(NeverDelivered, Paced, UnknownOutcome))
        while True:
            try:
                found: T = yield Ask(self._request(path), read)
                return found
            except ApiError as error:
                delay = backoff.delay_seconds(error)
            yield Sleep(delay)

    def _request(self, path: str, body: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        # The contract asks for the key on every call but GET /models.
        headers = {} if path == "/models" else {"authorization": f"Bearer {self._api_key}"}
        seconds = self._timeout if body else min(self._timeout, LOOK_UP_TIMEOUT_SECONDS)
        return {
            "method": "POST" if body else "GET",
            "url": self._base_url + path,
            "headers": headers,
            "json": body,
            "timeout": httpx.Timeout(seconds, connect=CONNECT_TIMEOUT_SECONDS, pool=None),
            **more,
        }

    def _fault(self, ask: Ask, error: httpx.HTTPError) -> ApiError:
        """Say what a transport's fault means for money."""
        words = self._without_key(str(error))
        what = f"{type(error).__name__}: {words}" if words else type(error).__name__
        # Only these are raised before the first byte of the request is written.
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return NeverDelivered(f"{self._base_url} was not reached ({what})")
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return NeverDelivered(f"{self._base_url} cannot be asked ({what})")
        if isinstance(error, httpx.TimeoutException):
            return UnknownOutcome(f"no answer within {ask.request['timeout'].read:g} s ({what})")
        return UnknownOutcome(f"the connection was lost after the request was sent ({what})")

    def _too_much(self, ask: Ask, size: int, started: float) -> None:
        if ask.stream is not None and ask.stream.last is not None:
            return  # its end is known, and all that follows is idle talk
        if size > MAX_ANSWER_BYTES:
            raise UnknownOutcome(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        # A read time-out starts anew with each byte; an answer that drips needs an end of its own.
        seconds = ask.request["timeout"].read
        if time.monotonic() - started > seconds:
            raise UnknownOutcome(f"no whole answer within {seconds:g} s")

    def _without_key(self, text: str) -> str:
        return text.replace(self._api_key, "[key]")

    def _read(self, ask: Ask, answer: Answer) -> Any:
        # Should a server send the key back, it goes no further than this: not into a message either.
        headers = {name: self._without_key(value) for name, value in answer.headers.items()}
        content = answer.content.replace(self._api_key.encode(), b"[key]")
        try:
            found = ask.read(Answer(answer.status, headers, content))
        except (ValueError, ArithmeticError, LookupError, TypeError) as error:
            raise AnswerNotUnderstood(
                f"the answer cannot be read ({type(error).__name__})", status_code=answer.status
            ) from None
        if ask.hooks is not None:
            if isinstance(found, Submission):
                ask.hooks.submitted(found)
            else:
                ask.hooks.answered(found)
        return found

    @staticmethod
    def _stream_of(ask: Ask, response: httpx.Response) -> EventStream | None:
        """Who takes the body, if it is the event stream that was asked for."""
        kind = response.headers.get("content-type", "").lower()
        return ask.stream if response.is_success and kind.startswith("text/event-stream") else None

    def _broken(self, ask: Ask, error: httpx.HTTPError) -> Answer:
        """Say what a connection that broke means; a stream may have told its end before."""
        if ask.stream is not None and ask.stream.last is not None:
            return Answer(200, {}, b"")
        raise self._fault(ask, error) from None

    @contextmanager
    def _watched(self, ask: Ask) -> Iterator[None]:
        """Tell hooks and gate of a request that may be charged, while its slot is held."""
        if ask.hooks is None:
            yield
            return
        if ask.boards and self._gate.overbooked():
            raise Overbooked
        ask.hooks.sending()
        try:
            yield
        except NotCharged as error:
            if isinstance(error, Paced):
                self._gate.paced(error)
            ask.hooks.not_charged(error)
            raise
        except UnknownOutcome as error:
            if ask.stream is not None:
                error.generation_id = error.generation_id or ask.stream.generation_id
            raise


def _larger(first: Credits | None, second: Credits | None) -> Credits | None:
    return max((c for c in (first, second) if c is not None), default=None)
