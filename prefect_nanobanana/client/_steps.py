"""The steps that an operation of the API is made of."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from prefect_nanobanana.client._hooks import GenerationHooks
from prefect_nanobanana.client._payload import Answer
from prefect_nanobanana.client._streams import EventStream

T = TypeVar("T")


@dataclass
class Ask:
    """Send a request, read its answer.

    Attributes:
        request: For httpx.
        read: Makes the step's result of the answer.
        hooks: Is told; None for a request that is never charged and takes no slot of the account.
        stream: Takes the body as it arrives, if it is an event stream.
        submits: Whether it begins an async generation.
    """

    request: dict[str, Any]
    read: Callable[[Answer], Any]
    hooks: GenerationHooks | None = None
    stream: EventStream | None = None
    submits: bool = False


class Overbooked(Exception):
    """The API has shown meanwhile that it has no room for this one; nothing was sent."""


@dataclass
class Sleep:
    """Wait."""

    seconds: float


@dataclass
class Acquire:
    """Wait until the API may accept one more async generation."""

    first: bool


Step = Ask | Sleep | Acquire
Steps = Generator[Step, Any, T]
