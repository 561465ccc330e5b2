"""What the client asks before a request may leave: whether the account has room for it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Protocol

from prefect_nanobanana.errors import Paced


class Queue(Protocol):
    """Where requests wait for a slot."""

    def slot(self) -> AbstractContextManager[None]:
        """Hold a slot for as long as the API counts one request."""

    def aslot(self) -> AbstractAsyncContextManager[None]:
        """The same for async code."""


class InFlight(Protocol):
    """Where async generations wait until the API may accept one more."""

    def acquire(self, first: bool = False) -> None:
        """Wait until the API may accept one more; `first` goes before others."""

    async def aacquire(self, first: bool = False) -> None:
        """The same for async code."""

    def release(self) -> None:
        """It was not submitted, or not accepted."""

    def accepted(self) -> None:
        """The API has accepted it."""

    def ended(self) -> None:
        """It was accepted, and has ended."""

    def overbooked(self) -> bool:
        """Whether more have acquired than may be in flight, as a refusal has shown meanwhile."""


class Gate(Protocol):
    """Lets requests through while the account has a free slot (see `prefect_nanobanana.slots`)."""

    @property
    def queue(self) -> Queue:
        """Where requests wait for a slot."""

    @property
    def in_flight(self) -> InFlight:
        """Where async generations wait until the API may accept one more."""

    def refused(self, error: Paced) -> None:
        """Learn from a refusal: the account's limit, and how long all have to wait."""


class _NoQueue:
    def slot(self) -> AbstractContextManager[None]:
        return nullcontext()

    def aslot(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class _NoLimit:
    def acquire(self, first: bool = False) -> None:
        pass

    async def aacquire(self, first: bool = False) -> None:
        pass

    def release(self) -> None:
        pass

    accepted = ended = release

    def overbooked(self) -> bool:
        return False


class Open:
    """The gate of a client that was given none."""

    queue = _NoQueue()
    in_flight = _NoLimit()

    def refused(self, error: Paced) -> None:
        pass
