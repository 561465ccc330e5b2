"""The client for async code: as `_client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import httpx

from prefect_nanobanana.client._hooks import GenerationHooks
from prefect_nanobanana.client._network import AsyncTransport
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


class AsyncNanoBananaClient(Operations):
    """The API for async code: as `NanoBananaClient`, awaited."""

    def __init__(
        self, *args: Any, transport: httpx.AsyncBaseTransport | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._transport = transport or AsyncTransport(self._base_url, self._plain_http_hosts)

    async def __aenter__(self) -> AsyncNanoBananaClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._transport.aclose()

    async def generate(
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
        """Have images made; see `NanoBananaClient.generate`.

        Raises:
            NotCharged: If it was refused, or never delivered as long as the time budget allowed.
            UnknownOutcome: If the request left and no usable answer came. It is not sent again.
        """
        return await self._go(
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

    async def submit(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        aspect_ratio: str = DEFAULT_ASPECT_RATIO,
        quantity: int = 1,
        reference_image_urls: Sequence[str] = (),
        hooks: GenerationHooks | None = None,
    ) -> Submission | Generation:
        """Begin a generation and do not wait for its end; see `NanoBananaClient.submit`.

        Raises:
            NotCharged: If it was refused, or never delivered as long as the time budget allowed.
            UnknownOutcome: If the request left and no usable answer came. It is not sent again.
        """
        return await self._go(
            self._submitting(
                prompt,
                model=model,
                aspect_ratio=aspect_ratio,
                quantity=quantity,
                reference_image_urls=reference_image_urls,
                hooks=hooks,
            )
        )

    async def wait(
        self,
        submission: Submission,
        *,
        elapsed_seconds: float | None = None,
        hooks: GenerationHooks | None = None,
    ) -> Generation:
        """Wait for the end of a generation; see `NanoBananaClient.wait`.

        Raises:
            StillRunning: If it has not ended in time, or if the API does not tell.
        """
        return await self._go(self._waiting(submission, elapsed_seconds, hooks))

    async def models(self) -> list[ImageModel]:
        """List the models that the API offers.

        Raises:
            ApiError: By cause.
        """
        return await self._go(self._models_of())

    async def credits(self) -> Credits:
        """Read the account's balance in credits.

        Raises:
            ApiError: By cause.
        """
        return await self._go(self._credits_of())

    async def _go(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    found = await self._perform(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(found)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _perform(self, step: Step) -> Any:
        match step:
            case Sleep():
                return await asyncio.sleep(step.seconds)
            case Acquire():
                return await self._gate.in_flight.aacquire(step.first)
            case Ask():
                async with self._gate.queue.aslot() if step.hooks else nullcontext():
                    with self._watched(step):
                        return self._read(step, await self._send(step))

    async def _send(self, ask: Ask) -> Answer:
        receiver = None
        try:
            response = await self._transport.handle_async_request(self._http_request(ask))
            try:
                receiver = self._receiver(ask, response)
                assert isinstance(response.stream, httpx.AsyncByteStream)
                async for chunk in response.stream:
                    if receiver.feed(chunk):
                        break
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            return self._broken(ask, receiver, error)
        return receiver.answer()
