"""The steps that an operation of the API is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from prefect_nanobanana.client._hooks import GenerationHooks
from prefect_nanobanana.client._payload import Answer
from prefect_nanobanana.client._streams import EventStream

T = TypeVar("T")
_SECRET_CHARACTERS = 16
"""What is shorter signs nothing."""


@dataclass
class Ask:
    """Send a request, read its answer.

    Attributes:
        request: For httpx.
        read: Makes the step's result of the answer.
        hooks: Is told; None for a request that is never charged and takes no slot of the account.
        stream: Takes the body as it arrives, if it is an event stream.
        submits: Whether it begins an async generation.
        references: Of a generation, as they were given.
    """

    request: dict[str, Any]
    read: Callable[[Answer], Any]
    hooks: GenerationHooks | None = None
    stream: EventStream | None = None
    submits: bool = False
    references: Sequence[str] = ()

    def offer(self, urls: Sequence[str]) -> list[str]:
        """Put addresses into a request that is about to leave.

        Args:
            urls: Where the API can fetch its references from.

        Returns:
            What signs those that were not given, as they were made for this request.
        """
        body = json.loads(self.request["content"])
        if body["referenceImageUrls"] == list(urls):
            return []
        body["referenceImageUrls"] = list(urls)
        self.request = {**self.request, "content": json.dumps(body).encode()}
        made = set(urls).difference(self.references)
        parameters = [each for url in made for each in urlsplit(url).query.split("&")]
        values = (parameter.partition("=")[2] for parameter in parameters)
        return [value for value in values if len(value) >= _SECRET_CHARACTERS]


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
