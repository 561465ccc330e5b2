"""What both clients do, without doing it: requests in their order, and what their answers mean.

Each operation is a generator of steps. The sync and the async client perform the steps, and send
back, or throw in, what came of them: so the rules about money are written once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefect_nanobanana.client._account import read_credits, read_models
from prefect_nanobanana.client._ends import Ends
from prefect_nanobanana.client._generations import read_generation
from prefect_nanobanana.client._hooks import GenerationHooks
from prefect_nanobanana.client._payload import Answer
from prefect_nanobanana.client._polling import Stopwatch
from prefect_nanobanana.client._steps import (
    Acquire,
    Ask,
    Overbooked,
    Sleep,
    Steps,
)
from prefect_nanobanana.client._streams import EventStream
from prefect_nanobanana.errors import (
    ApiError,
    NeverDelivered,
    NotCharged,
    Paced,
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

T = TypeVar("T")


class Operations(Ends):
    """What can be asked of the API, as generators of steps."""

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
        hooks, stopwatch, quantity = hooks or GenerationHooks(), Stopwatch(), settings["quantity"]
        hooks.check_references(settings["reference_image_urls"])
        try:
            if mode == "async":
                return (yield from self._in_flight(prompt, model=model, hooks=hooks, **settings))
            found = yield from self._at_once(prompt, model=model, mode=mode, hooks=hooks, **settings)
            if isinstance(found, Submission):  # sync answers may come as a submission [W]
                return (yield from self._ending(found, hooks, Stopwatch(), quantity=quantity))
            return found
        except UnknownOutcome as error:
            if error.generation_id is None or isinstance(error, StillRunning):
                raise
            # It has a name: its end can be asked for, which costs nothing.
            lost = error
        submission = Submission(generation_id=str(lost.generation_id), model=model, mode=mode)
        hooks.submitted(submission)
        return (
            yield from self._ending(
                submission, hooks, stopwatch, lost, ask_first=True, quantity=quantity
            )
        )

    def _at_once(
        self, prompt: str, *, model: str, mode: Mode, hooks: GenerationHooks, **settings: Any
    ) -> Steps[Generation | Submission]:
        """Ask and have the answer in the same request; ask again only where nothing was charged."""
        request = self._generate_request(prompt, model=model, mode=mode, **settings)
        stream = EventStream(self._secrets, model, hooks) if mode == "stream" else None

        def read(answer: Answer) -> Generation | Submission:
            if stream is not None and stream.seen:
                return stream.ended(self._base_url)
            return read_generation(
                answer,
                base_url=self._base_url,
                model=model,
                mode=mode,
                quantity=settings["quantity"],
            )

        backoff = self._backoff(self._retry_for)
        while True:
            try:
                found: Generation | Submission = yield Ask(
                    request, read, hooks, stream, references=settings["reference_image_urls"]
                )
                return found
            except NotCharged as error:
                delay = backoff.delay_seconds(error)
            yield Sleep(delay)

    def _in_flight(
        self, prompt: str, *, model: str, hooks: GenerationHooks, **settings: Any
    ) -> Steps[Generation]:
        """Submit and wait; one generation of those that the API has room for."""
        found = yield from self._submit(prompt, model=model, hooks=hooks, **settings)
        try:
            if isinstance(found, Generation):
                return found
            return (yield from self._ending(found, hooks, Stopwatch(), quantity=settings["quantity"]))
        finally:
            self._gate.in_flight.ended()

    def _submitting(
        self, prompt: str, *, model: str, hooks: GenerationHooks | None, **settings: Any
    ) -> Steps[Submission | Generation]:
        """Submit and do not wait; how many are in flight is then not known here."""
        hooks = hooks or GenerationHooks()
        hooks.check_references(settings["reference_image_urls"])
        found = yield from self._submit(prompt, model=model, hooks=hooks, **settings)
        self._gate.in_flight.ended()
        return found

    def _submit(
        self, prompt: str, *, model: str, hooks: GenerationHooks, **settings: Any
    ) -> Steps[Submission | Generation]:
        """Submit, again after each refusal; what comes back is in flight until it has `ended`."""
        request = self._generate_request(prompt, model=model, mode="async", **settings)

        def read(answer: Answer) -> Submission | Generation:
            return read_generation(
                answer,
                base_url=self._base_url,
                model=model,
                mode="async",
                quantity=settings["quantity"],
            )

        backoff = self._backoff(self._retry_for)
        refused = acquired = False
        try:
            while True:
                yield Acquire(first=refused)
                acquired = True
                try:
                    found: Submission | Generation = yield Ask(
                        request,
                        read,
                        hooks,
                        submits=True,
                        references=settings["reference_image_urls"],
                    )
                    self._gate.in_flight.accepted()
                    return found
                except Overbooked:
                    delay, refused = 0.0, True
                except NotCharged as error:
                    delay, refused = backoff.delay_seconds(error), True
                # Others may use the room meanwhile.
                self._gate.in_flight.release()
                acquired = False
                yield Sleep(delay)
        except BaseException:
            if acquired:
                self._gate.in_flight.release()
            raise

    def _credits_of(self) -> Steps[Credits]:
        return self._look_up("/credits", read_credits)

    def _models_of(self) -> Steps[list[ImageModel]]:
        return self._look_up("/models", read_models)

    def _look_up(self, path: str, read: Callable[[Answer], T]) -> Steps[T]:
        # A look-up costs nothing, so every passing fault may be tried again.
        backoff = self._backoff(
            self._timings.retry_look_ups_for, again=(NeverDelivered, Paced, UnknownOutcome)
        )
        while True:
            try:
                found: T = yield Ask(self._request(path), read)
                return found
            except ApiError as error:
                delay = backoff.delay_seconds(error)
            yield Sleep(delay)
