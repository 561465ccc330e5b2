"""The client for plain Python code. Knows neither Prefect nor S3.

What is sent, in which order, and when again, is written once, in `_operations`; a client only sends
and waits. Every request has a connection of its own: on a connection kept alive, a server that
hangs up just as a request goes out leaves it unknown whether that request was paid for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import httpx

from prefect_nanobanana._common import stopping
from prefect_nanobanana.client._hooks import GenerationHooks
from prefect_nanobanana.client._network import Transport
from prefect_nanobanana.client._operations import Operations
from prefect_nanobanana.client._payload import Answer
from prefect_nanobanana.client._steps import Acquire, Ask, Sleep, Step, Steps
from prefect_nanobanana.models import (
    DEFAULT_ASPECT_RATIO,
    DEFAULT_MODEL,
    Credits,
    Generation,
    ImageModel,
    Mode,
    Submission,
)

T = TypeVar("T")


class NanoBananaClient(Operations):
    """The API for plain Python code.

    Args:
        api_key: The account's key.
        base_url: Where the API is.
        request_timeout_seconds: How long to wait for an answer, and in async mode for the generation's
            end, in seconds.
        retry_for_seconds: How long a request that was not charged is tried again, in seconds.
        gate: Lets requests through while the account has a free slot; by default all pass.
        plain_http_hosts: Hosts that may be asked over plain http although they are not this machine.
        timings: How long it waits for what.
        max_answer_bytes: The size of an answer in bytes, unpacked, beyond which it is given up.
        transport: An httpx transport to use instead of the network.

    Example:
        ```python
        with NanoBananaClient("nb_...") as client:
            print(client.generate("a lighthouse in fog").image_urls)
        ```

    Raises:
        InvalidInput: If the base URL or the key cannot be sent, or if the environment names a proxy or
            certificates that cannot be used.
    """

    def __init__(self, *args: Any, transport: httpx.BaseTransport | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._transport = transport or Transport(self._base_url, self._plain_http_hosts)

    def __enter__(self) -> NanoBananaClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client's connections."""
        self._transport.close()

    def generate(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        aspect_ratio: str = DEFAULT_ASPECT_RATIO,
        quantity: int = 1,
        reference_image_urls: Sequence[str] = (),
        mode: Mode = "sync",
        hooks: GenerationHooks | None = None,
    ) -> Generation:
        """Have images made. Costs credits, whether images come of it or not.

        Args:
            prompt: The text to draw.
            model: A model's name, from `models()`.
            aspect_ratio: As `16:9`.
            quantity: How many images, 1 to 4.
            reference_image_urls: Images to start from, at addresses that the API can fetch.
            mode: `sync` waits in one request, `stream` too and tells of its progress, `async` submits
                and asks for the end.
            hooks: Is told before a request leaves, and what came of it.

        Returns:
            The generation: completed, refused by the safety check (`warning`), or failed.

        Raises:
            NotCharged: If it was refused, or never delivered as long as the time budget allowed.
            UnknownOutcome: If the request left and no usable answer came. It is not sent again.
                `StillRunning` if the generation has an id by which its end can be asked for later.
        """
        return self._go(
            self._generating(
                prompt,
                model=model,
                aspect_ratio=aspect_ratio,
                quantity=quantity,
                reference_image_urls=reference_image_urls,
                mode=mode,
                hooks=hooks,
            )
        )

    def submit(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        aspect_ratio: str = DEFAULT_ASPECT_RATIO,
        quantity: int = 1,
        reference_image_urls: Sequence[str] = (),
        hooks: GenerationHooks | None = None,
    ) -> Submission | Generation:
        """Begin a generation in async mode, and do not wait for its end. Costs credits.

        Returns:
            The submission, for `wait`; or the generation, should the API have finished it at once.

        Raises:
            NotCharged: If it was refused, or never delivered as long as the time budget allowed.
            UnknownOutcome: If the request left and no usable answer came. It is not sent again.
        """
        return self._go(
            self._submitting(
                prompt,
                model=model,
                aspect_ratio=aspect_ratio,
                quantity=quantity,
                reference_image_urls=reference_image_urls,
                hooks=hooks,
            )
        )

    def wait(
        self,
        submission: Submission,
        *,
        elapsed_seconds: float | None = None,
        hooks: GenerationHooks | None = None,
    ) -> Generation:
        """Wait for the end of a generation. Costs nothing.

        Args:
            submission: What was submitted; one made of a generation's id alone will do.
            elapsed_seconds: How long ago that was, in seconds, if it is known.
            hooks: Is told of the end.

        Returns:
            The generation.

        Raises:
            StillRunning: If it has not ended in time, or if the API does not tell.
        """
        return self._go(self._waiting(submission, elapsed_seconds, hooks))

    def models(self) -> list[ImageModel]:
        """List the models that the API offers.

        Raises:
            ApiError: By cause.
        """
        return self._go(self._models_of())

    def credits(self) -> Credits:
        """Read the account's balance in credits.

        Raises:
            ApiError: By cause.
        """
        return self._go(self._credits_of())

    def _go(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    found = self._perform(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(found)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _perform(self, step: Step) -> Any:
        match step:
            case Sleep():
                return stopping.wait(step.seconds)
            case Acquire():
                return self._gate.in_flight.acquire(step.first)
            case Ask():
                with self._gate.queue.slot() if step.hooks else nullcontext(), self._watched(step):
                    return self._read(step, self._send(step))

    def _send(self, ask: Ask) -> Answer:
        receiver = None
        try:
            response = self._transport.handle_request(self._http_request(ask))
            try:
                receiver = self._receiver(ask, response)
                assert isinstance(response.stream, httpx.SyncByteStream)
                for chunk in response.stream:
                    if receiver.feed(chunk):
                        break
            finally:
                response.close()
        except httpx.HTTPError as error:
            return self._broken(ask, receiver, error)
        return receiver.answer()
