"""One request and its answer: how it is asked, and what its faults mean for money."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from prefect_nanobanana._common.http import USER_AGENT
from prefect_nanobanana._common.tls import tls
from prefect_nanobanana.client import _timings
from prefect_nanobanana.client._payload import Answer
from prefect_nanobanana.client._steps import Ask, EventStream, Gate, Open, Overbooked
from prefect_nanobanana.client._timings import DEFAULT_REQUEST_TIMEOUT_SECONDS, Timings
from prefect_nanobanana.errors import (
    AnswerNotUnderstood,
    ApiError,
    NeverDelivered,
    NotCharged,
    Paced,
    UnknownOutcome,
)
from prefect_nanobanana.models import Submission

DEFAULT_BASE_URL = "https://www.nananobanana.com/api/v1"
"""Where the API is (seed document)."""
DEFAULT_RETRY_FOR_SECONDS = 900.0
"""How long a request that was not charged is tried again: minutes, as another run may hold the slot."""
MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""Answers may hold images as `data:` URLs; more than this is not an answer."""


class Exchange:
    """What both clients know of one request: its form, its bounds, and what its end means."""

    def __init__(
        self,
        api_key: str,
        base_url: str = DEFAULT_BASE_URL,
        *,
        request_timeout_seconds: float = DEFAULT_REQUEST_TIMEOUT_SECONDS,
        retry_for_seconds: float = DEFAULT_RETRY_FOR_SECONDS,
        gate: Gate | None = None,
        timings: Timings | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url.rstrip("/")
        self._timeout = request_timeout_seconds
        self._retry_for = retry_for_seconds
        self._gate: Gate = gate or Open()
        self._timings = timings or _timings.DEFAULT
        self._max_answer_bytes = max_answer_bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url!r})"

    def _options(self) -> dict[str, Any]:
        return {
            "headers": {"user-agent": USER_AGENT, "accept": "application/json, text/event-stream"},
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=0),
            "follow_redirects": False,
            "verify": tls(),
        }

    def _request(self, path: str, body: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        # The contract asks for the key on every call but GET /models.
        headers = {} if path == "/models" else {"authorization": f"Bearer {self._api_key}"}
        seconds = self._timeout if body else min(self._timeout, self._timings.look_up)
        return {
            "method": "POST" if body else "GET",
            "url": self._base_url + path,
            "headers": headers,
            "json": body,
            "timeout": httpx.Timeout(seconds, connect=self._timings.connect, pool=None),
            **more,
        }

    def _fault(self, ask: Ask, error: httpx.HTTPError) -> ApiError:
        """Say what a transport's fault means for money."""
        words = self._without_key(str(error))
        what = f"{type(error).__name__}: {words}" if words else type(error).__name__
        # Only these are raised before the first byte of the request is written.
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return NeverDelivered(f"{self._base_url} was not reached ({what})")
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return NeverDelivered(f"{self._base_url} cannot be asked ({what})")
        if isinstance(error, httpx.TimeoutException):
            return UnknownOutcome(f"no answer within {ask.request['timeout'].read:g} s ({what})")
        return UnknownOutcome(f"the connection was lost after the request was sent ({what})")

    def _too_much(self, ask: Ask, size: int, started: float) -> None:
        if ask.stream is not None and ask.stream.last is not None:
            return  # its end is known, and all that follows is idle talk
        if size > self._max_answer_bytes:
            raise UnknownOutcome(f"the answer is larger than {self._max_answer_bytes} bytes")
        # A read time-out starts anew with each byte; an answer that drips needs an end of its own.
        seconds = ask.request["timeout"].read
        if time.monotonic() - started > seconds:
            raise UnknownOutcome(f"no whole answer within {seconds:g} s")

    def _without_key(self, text: str) -> str:
        return text.replace(self._api_key, "[key]")

    def _read(self, ask: Ask, answer: Answer) -> Any:
        # Should a server send the key back, it goes no further than this: not into a message either.
        headers = {name: self._without_key(value) for name, value in answer.headers.items()}
        content = answer.content.replace(self._api_key.encode(), b"[key]")
        try:
            found = ask.read(Answer(answer.status, headers, content))
        except (ValueError, ArithmeticError, LookupError, TypeError) as error:
            raise AnswerNotUnderstood(
                f"the answer cannot be read ({type(error).__name__})", status_code=answer.status
            ) from None
        if ask.hooks is not None:
            if isinstance(found, Submission):
                ask.hooks.submitted(found)
            else:
                ask.hooks.answered(found)
        return found

    @staticmethod
    def _stream_of(ask: Ask, response: httpx.Response) -> EventStream | None:
        """Who takes the body, if it is the event stream that was asked for."""
        kind = response.headers.get("content-type", "").lower()
        return ask.stream if response.is_success and kind.startswith("text/event-stream") else None

    def _broken(self, ask: Ask, error: httpx.HTTPError) -> Answer:
        """Say what a connection that broke means; a stream may have told its end before."""
        if ask.stream is not None and ask.stream.last is not None:
            return Answer(200, {}, b"")
        raise self._fault(ask, error) from None

    @contextmanager
    def _watched(self, ask: Ask) -> Iterator[None]:
        """Tell hooks and gate of a request that may be charged, while its slot is held."""
        if ask.hooks is None:
            yield
            return
        if ask.boards and self._gate.overbooked():
            raise Overbooked
        ask.hooks.sending()
        try:
            yield
        except NotCharged as error:
            if isinstance(error, Paced):
                self._gate.paced(error)
            ask.hooks.not_charged(error)
            raise
        except UnknownOutcome as error:
            if ask.stream is not None:
                error.generation_id = error.generation_id or ask.stream.generation_id
            raise
