"""What the client asks before a request may leave: whether the account has room for it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Protocol

from prefect_nanobanana.errors import Paced


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
