"""The steps that an operation of the API is made of, and who is told of them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from prefect_nanobanana.client._generations import event_id, read_last_event
from prefect_nanobanana.client._payload import Answer
from prefect_nanobanana.client._sse import EventReader
from prefect_nanobanana.errors import NotCharged, Paced, UnknownOutcome
from prefect_nanobanana.models import Generation, Submission

T = TypeVar("T")


class Gate(Protocol):
    """Lets requests through while the account has a free slot (see `prefect_nanobanana.slots`)."""

    def hold(self) -> AbstractContextManager[None]:
        """Hold a slot for as long as the API counts one request."""

    def ahold(self) -> AbstractAsyncContextManager[None]:
        """The same for async code."""

    def board(self, first: bool) -> None:
        """Wait until the API may take one more async generation; `first` goes before others."""

    async def aboard(self, first: bool) -> None:
        """The same for async code."""

    def overbooked(self) -> bool:
        """Whether more have boarded than there is room for, as a refusal has shown meanwhile."""

    def boarded(self) -> None:
        """The API has taken an async generation."""

    def leave(self, boarded: bool) -> None:
        """An async generation has ended, or (not `boarded`) was never begun."""

    def paced(self, error: Paced) -> None:
        """Learn from a refusal: the account's limit, and how long all have to wait."""


class GenerationHooks:
    """Is told of every step that concerns money, as it happens; the ledger is one."""

    def sending(self) -> None:
        """A request that may be charged is about to leave; raising keeps it from leaving."""

    def not_charged(self, error: NotCharged) -> None:
        """The request that left last was not charged; its slot is still held."""

    def submitted(self, submission: Submission) -> None:
        """The API has named the generation; its end can be asked for from now on."""

    def progress(self, percent: int, message: str) -> None:
        """The generation has come so far; for people."""

    def answered(self, generation: Generation) -> None:
        """The generation has ended. What was sent in sync mode still holds its slot."""


class Open:
    """The gate of a client that was given none."""

    def hold(self) -> AbstractContextManager[None]:
        return nullcontext()

    def ahold(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def board(self, first: bool) -> None:
        pass

    async def aboard(self, first: bool) -> None:
        pass

    def overbooked(self) -> bool:
        return False

    def boarded(self) -> None:
        pass

    def leave(self, boarded: bool) -> None:
        pass

    def paced(self, error: Paced) -> None:
        pass


class EventStream:
    """What is seen of one event stream.

    Args:
        api_key: Is taken out of what the events say.
        model: The model that was asked.
        hooks: Is told of the generation's id and its progress.
    """

    def __init__(self, api_key: str, model: str, hooks: GenerationHooks) -> None:
        self._model = model
        self._hooks = hooks
        self._reader = EventReader(api_key)
        self._percent = -1
        self.generation_id: str | None = None
        self.last: dict[str, Any] | None = None
        self.seen = False

    def feed(self, chunk: bytes) -> None:
        """Take in what has arrived of the body; nothing at its end."""
        self.seen = True
        for event in self._reader.feed(chunk):
            if self.last is None:
                self._see(event)

    def ended(self, base_url: str) -> Generation:
        """Make a generation of the last event.

        Raises:
            UnknownOutcome: If the stream ended before the generation did.
        """
        self.feed(b"")
        if self.last is None:
            raise UnknownOutcome("the stream ended before the generation did")
        return read_last_event(
            self.last, base_url=base_url, model=self._model, generation_id=self.generation_id
        )

    def _see(self, event: dict[str, Any]) -> None:
        if self.generation_id is None:
            self.generation_id = event_id(event)
            if self.generation_id is not None:
                self._hooks.submitted(
                    Submission(generation_id=self.generation_id, model=self._model, mode="stream")
                )
        if event.get("type") in ("complete", "error"):
            self.last = event
            return
        percent, message = event.get("progress"), event.get("message")
        # Heartbeats may fall back to 0, which is no progress.
        if isinstance(percent, int | float) and self._percent < percent <= 100:
            self._percent = int(percent)
            self._hooks.progress(self._percent, message[:200] if isinstance(message, str) else "")


@dataclass
class Ask:
    """Send a request, read its answer.

    Attributes:
        request: For httpx.
        read: Makes the step's result of the answer.
        hooks: Is told; None for a request that is never charged and takes no slot of the account.
        stream: Takes the body as it arrives, if it is an event stream.
        boards: Whether it begins an async generation.
    """

    request: dict[str, Any]
    read: Callable[[Answer], Any]
    hooks: GenerationHooks | None = None
    stream: EventStream | None = None
    boards: bool = False


class Overbooked(Exception):
    """The API has shown meanwhile that it has no room for this one; nothing was sent."""


@dataclass
class Sleep:
    """Wait."""

    seconds: float


@dataclass
class Board:
    """Wait until the API may take one more async generation."""

    first: bool


Step = Ask | Sleep | Board
Steps = Generator[Step, Any, T]
