"""The steps that an operation of the API is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from prefect_nanobanana.client._hooks import GenerationHooks
from prefect_nanobanana.client._payload import Answer
from prefect_nanobanana.client._streams import EventStream

T = TypeVar("T")
_LEAST_CHARACTERS = 16
_SECRETS = {"x-amz-signature", "x-amz-security-token", "signature", "awsaccesskeyid"}
"""What opens an object, of an address that S3 is asked by (its documentation)."""


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

    request: dict[str, Any] = field(repr=False)
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
        given = [each.partition("=") for url in made for each in urlsplit(url).query.split("&")]
        secrets = [value for name, _, value in given if name.lower() in _SECRETS]
        # What parses an address repeats its parameters as they are meant; a key's id stands alone, too.
        secrets += [unquote(value) for value in secrets]
        secrets += [unquote(v).split("/")[0] for n, _, v in given if n.lower() == "x-amz-credential"]
        # A shorter one, as a store of one's own may have, stands in other words, too.
        return [secret for secret in secrets if len(secret) >= _LEAST_CHARACTERS]


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
