"""The HTTP client of the Nano Banana API, sync and async. Knows neither Prefect nor S3.

Both shells do the same: send, read, and send again only where the API's error table says that
nothing was charged. Every request has a connection of its own: on a connection kept alive, a server
that hangs up just as a request goes out leaves it unknown whether that request was paid for.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

import httpx

from prefect_nanobanana._answers import Answer, read_credits, read_generation, read_models
from prefect_nanobanana._pace import Pace
from prefect_nanobanana._version import __version__
from prefect_nanobanana.errors import (
    AnswerNotUnderstood,
    ApiError,
    NeverDelivered,
    NotCharged,
    Paced,
    UnknownOutcome,
)
from prefect_nanobanana.models import (
    DEFAULT_ASPECT_RATIO,
    DEFAULT_MODEL,
    Credits,
    Generation,
    ImageModel,
    Mode,
)

DEFAULT_BASE_URL = "https://www.nananobanana.com/api/v1"
"""Where the API is (seed document)."""
DEFAULT_REQUEST_TIMEOUT_SECONDS = 180.0
"""The vendor asks for at least 120 s; a generation takes 10 to 60 s (seed document)."""
CONNECT_TIMEOUT_SECONDS = 10.0
DEFAULT_RETRY_FOR_SECONDS = 900.0
"""How long a request that was not charged is tried again: minutes, as another run may hold the slot."""
READ_RETRY_FOR_SECONDS = 30.0
"""How long a failed look-up (models, credits) is tried again."""
MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""Answers may hold images as `data:` URLs; more than this is not an answer."""
USER_AGENT = f"prefect-nanobanana/{__version__}"

T = TypeVar("T")


class Gate(Protocol):
    """Lets requests through while the account has a free slot (see `prefect_nanobanana.slots`)."""

    def hold(self) -> AbstractContextManager[None]:
        """Hold a slot for as long as the API counts one request."""

    def ahold(self) -> AbstractAsyncContextManager[None]:
        """The same for async code."""

    def paced(self, error: Paced) -> None:
        """Learn from a refusal: the account's limit, and how long all have to wait."""


class Witness(Protocol):
    """Is told of every step that concerns money, as it happens; the ledger is one."""

    def sending(self) -> None:
        """A request that may be charged is about to leave; raising keeps it from leaving."""

    def not_charged(self, error: NotCharged) -> None:
        """The request that left last was not charged; its slot is still held."""

    def answered(self, generation: Generation) -> None:
        """The request that left last was answered; its slot is still held, so no other has left."""


class _Open:
    """The gate of a client that was given none."""

    def hold(self) -> AbstractContextManager[None]:
        return nullcontext()

    def ahold(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def paced(self, error: Paced) -> None:
        pass


@functools.cache
def _tls() -> ssl.SSLContext:
    # Loading the certificates costs 30 ms of CPU: once per process, not once per client.
    return httpx.create_ssl_context()


class _Core:
    """What the two shells share: everything but the waiting."""

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
        self._gate: Gate = gate or _Open()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url!r})"

    def _options(self) -> dict[str, Any]:
        return {
            "headers": {"user-agent": USER_AGENT, "accept": "application/json"},
            "timeout": httpx.Timeout(self._timeout, connect=CONNECT_TIMEOUT_SECONDS, pool=None),
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=0),
            "follow_redirects": False,
            "verify": _tls(),
        }

    def _request(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        # The contract asks for the key on every call but GET /models.
        headers = {} if path == "/models" else {"authorization": f"Bearer {self._api_key}"}
        method = "GET" if body is None else "POST"
        return {"method": method, "url": self._base_url + path, "headers": headers, "json": body}

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

    def _fault(self, error: httpx.HTTPError) -> ApiError:
        """Say what a transport's fault means for money."""
        words = self._without_key(str(error))
        what = f"{type(error).__name__}: {words}" if words else type(error).__name__
        # Only these are raised before the first byte of the request is written.
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return NeverDelivered(f"{self._base_url} was not reached ({what})")
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return NeverDelivered(f"{self._base_url} cannot be asked ({what})")
        if isinstance(error, httpx.TimeoutException):
            return UnknownOutcome(f"no answer within {self._timeout:g} s ({what})")
        return UnknownOutcome(f"the connection was lost after the request was sent ({what})")

    def _too_much(self, size: int, started: float) -> None:
        if size > MAX_ANSWER_BYTES:
            raise UnknownOutcome(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        # A read time-out starts anew with each byte; an answer that drips needs an end of its own.
        if time.monotonic() - started > self._timeout:
            raise UnknownOutcome(f"no whole answer within {self._timeout:g} s")

    def _without_key(self, text: str) -> str:
        return text.replace(self._api_key, "[key]")

    def _read(self, answer: Answer, read: Callable[[Answer], T]) -> T:
        # Should a server send the key back, it goes no further than this: not into a message either.
        headers = {name: self._without_key(value) for name, value in answer.headers.items()}
        content = answer.content.replace(self._api_key.encode(), b"[key]")
        try:
            return read(Answer(answer.status, headers, content))
        except (ValueError, ArithmeticError, LookupError, TypeError) as error:
            raise AnswerNotUnderstood(
                f"the answer cannot be read ({type(error).__name__})", status_code=answer.status
            ) from None

    @contextmanager
    def _learning(self, witness: Witness | None = None) -> Iterator[None]:
        """Tell witness and gate of a refusal before the slot lets the next request through."""
        try:
            yield
        except NotCharged as error:
            if isinstance(error, Paced):
                self._gate.paced(error)
            if witness is not None:
                witness.not_charged(error)
            raise

    def _generation(self, model: str, mode: Mode) -> Callable[[Answer], Generation]:
        def read(answer: Answer) -> Generation:
            return read_generation(answer, base_url=self._base_url, model=model, mode=mode)

        return read

    def _read_pace(self) -> Pace:
        # A look-up costs nothing, so every passing fault may be tried again.
        return Pace(READ_RETRY_FOR_SECONDS, again=(NeverDelivered, Paced, UnknownOutcome))


class NanoBananaClient(_Core):
    """The API for plain Python code.

    Args:
        api_key: The account's key.
        base_url: Where the API is.
        request_timeout_seconds: How long to wait for an answer, in seconds.
        retry_for_seconds: How long a request that was not charged is tried again, in seconds.
        gate: Lets requests through while the account has a free slot; by default all pass.
        transport: An httpx transport to use instead of the network.

    Example:
        ```python
        with NanoBananaClient("nb_...") as client:
            print(client.generate("a lighthouse in fog").image_urls)
        ```
    """

    def __init__(self, *args: Any, transport: httpx.BaseTransport | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._http = httpx.Client(transport=transport, **self._options())

    def __enter__(self) -> NanoBananaClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client's connections."""
        self._http.close()

    def generate(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        aspect_ratio: str = DEFAULT_ASPECT_RATIO,
        quantity: int = 1,
        reference_image_urls: Sequence[str] = (),
        witness: Witness | None = None,
    ) -> Generation:
        """Have images made. Costs credits, whether images come of it or not.

        Args:
            prompt: The text to draw.
            model: A model's name, from `models()`.
            aspect_ratio: As `16:9`.
            quantity: How many images, 1 to 4.
            reference_image_urls: Images to start from, at addresses that the API can fetch.
            witness: Is told before a request leaves, and what came of it.

        Returns:
            The generation: completed, refused by the safety check (`warning`), or failed.

        Raises:
            NotCharged: If it was refused, or never delivered as long as the time budget allowed.
            UnknownOutcome: If the request left and no usable answer came. It is not sent again.
        """
        request = self._generate_request(
            prompt,
            model=model,
            aspect_ratio=aspect_ratio,
            quantity=quantity,
            reference_image_urls=reference_image_urls,
            mode="sync",
        )
        pace = Pace(self._retry_for)
        while True:
            try:
                with self._gate.hold(), self._learning(witness):
                    if witness is not None:
                        witness.sending()
                    generation = self._read(self._send(request), self._generation(model, "sync"))
                    if witness is not None:
                        witness.answered(generation)
                    return generation
            except NotCharged as error:
                delay = pace.delay_seconds(error)
            time.sleep(delay)

    def models(self) -> list[ImageModel]:
        """List the models that the API offers.

        Raises:
            ApiError: By cause.
        """
        return self._look_up("/models", read_models)

    def credits(self) -> Credits:
        """Read the account's balance in credits.

        Raises:
            ApiError: By cause.
        """
        return self._look_up("/credits", read_credits)

    def _look_up(self, path: str, read: Callable[[Answer], T]) -> T:
        pace = self._read_pace()
        while True:
            try:
                return self._read(self._send(self._request(path)), read)
            except ApiError as error:
                delay = pace.delay_seconds(error)
            time.sleep(delay)

    def _send(self, request: dict[str, Any]) -> Answer:
        started = time.monotonic()
        try:
            with self._http.stream(**request) as response:
                content = bytearray()
                chunks: Iterator[bytes] = response.iter_bytes()
                for chunk in chunks:
                    content += chunk
                    self._too_much(len(content), started)
                return Answer(response.status_code, response.headers, bytes(content))
        except httpx.HTTPError as error:
            raise self._fault(error) from None


class AsyncNanoBananaClient(_Core):
    """The API for async code: as `NanoBananaClient`, awaited."""

    def __init__(
        self, *args: Any, transport: httpx.AsyncBaseTransport | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._http = httpx.AsyncClient(transport=transport, **self._options())

    async def __aenter__(self) -> AsyncNanoBananaClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._http.aclose()

    async def generate(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_MODEL,
        aspect_ratio: str = DEFAULT_ASPECT_RATIO,
        quantity: int = 1,
        reference_image_urls: Sequence[str] = (),
    ) -> Generation:
        """Have images made; see `NanoBananaClient.generate`.

        Raises:
            NotCharged: If it was refused, or never delivered as long as the time budget allowed.
            UnknownOutcome: If the request left and no usable answer came. It is not sent again.
        """
        request = self._generate_request(
            prompt,
            model=model,
            aspect_ratio=aspect_ratio,
            quantity=quantity,
            reference_image_urls=reference_image_urls,
            mode="sync",
        )
        pace = Pace(self._retry_for)
        while True:
            try:
                async with self._gate.ahold():
                    with self._learning():
                        return self._read(await self._send(request), self._generation(model, "sync"))
            except NotCharged as error:
                delay = pace.delay_seconds(error)
            await asyncio.sleep(delay)

    async def models(self) -> list[ImageModel]:
        """List the models that the API offers.

        Raises:
            ApiError: By cause.
        """
        return await self._look_up("/models", read_models)

    async def credits(self) -> Credits:
        """Read the account's balance in credits.

        Raises:
            ApiError: By cause.
        """
        return await self._look_up("/credits", read_credits)

    async def _look_up(self, path: str, read: Callable[[Answer], T]) -> T:
        pace = self._read_pace()
        while True:
            try:
                return self._read(await self._send(self._request(path)), read)
            except ApiError as error:
                delay = pace.delay_seconds(error)
            await asyncio.sleep(delay)

    async def _send(self, request: dict[str, Any]) -> Answer:
        started = time.monotonic()
        try:
            async with self._http.stream(**request) as response:
                content = bytearray()
                chunks: AsyncIterator[bytes] = response.aiter_bytes()
                async for chunk in chunks:
                    content += chunk
                    self._too_much(len(content), started)
                return Answer(response.status_code, response.headers, bytes(content))
        except httpx.HTTPError as error:
            raise self._fault(error) from None
