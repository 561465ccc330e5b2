"""One request and its answer: how it is asked, and what its faults mean for money. No I/O here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx

from prefect_nanobanana._common.http import USER_AGENT
from prefect_nanobanana.client._defaults import DEFAULT_BASE_URL, DEFAULT_REQUEST_TIMEOUT_SECONDS
from prefect_nanobanana.client._gate import Gate, Open
from prefect_nanobanana.client._payload import Answer, kept, one_line
from prefect_nanobanana.client._receiving import Receiver
from prefect_nanobanana.client._refusals import PROXY_CURE, PROXY_REFUSES
from prefect_nanobanana.client._secrets import Secrets
from prefect_nanobanana.client._steps import Ask, Overbooked
from prefect_nanobanana.client._timings import TIMINGS, Timings
from prefect_nanobanana.errors import (
    AccessNotEnabled,
    AnswerNotUnderstood,
    ApiError,
    CertificateNotTrusted,
    ConcurrencyLimitReached,
    InvalidInput,
    NeverDelivered,
    NotCharged,
    Paced,
    QuotaExceeded,
    UnknownOutcome,
)
from prefect_nanobanana.models import Submission

DEFAULT_RETRY_FOR_SECONDS = 900.0
"""How long a request that was not charged is tried again: minutes, as another run may hold the slot."""
MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""Answers may hold images as `data:` URLs; more than this, unpacked, is not an answer."""


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
        plain_http_hosts: Collection[str] = (),
        timings: Timings | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._api_key = api_key
        self._secrets = Secrets(api_key)
        self._base_url = base_url.rstrip("/")
        self._timeout = request_timeout_seconds
        self._retry_for = retry_for_seconds
        self._gate: Gate = gate or Open()
        self._plain_http_hosts = plain_http_hosts
        self._timings = timings or TIMINGS.get()
        self._max_answer_bytes = max_answer_bytes
        try:
            parts = urlsplit(self._base_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError
            self._http_request(Ask(self._request("/credits"), lambda _: None))
            can_be_sent = api_key.isascii() and api_key.isprintable() and " " not in api_key
        except (ValueError, TypeError, httpx.InvalidURL):
            can_be_sent = False
        if not can_be_sent:  # raised out here, as what was caught may name the key
            raise InvalidInput(
                "the base URL or the API key cannot be sent: an address as "
                f"{DEFAULT_BASE_URL} and a key as nb_... are needed"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url!r})"

    def _request(self, path: str, body: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        seconds = self._timeout if body else min(self._timeout, self._timings.look_up)
        headers = {
            "user-agent": USER_AGENT,
            "accept": "application/json, text/event-stream",
            "accept-encoding": "gzip",
        }
        # The contract asks for the key on every call but GET /models.
        if path != "/models":
            headers["authorization"] = f"Bearer {self._api_key}"
        if body:
            headers["content-type"] = "application/json"
        return {
            "method": "POST" if body else "GET",
            "url": self._base_url + path,
            "headers": httpx.Headers(headers),  # which do not show the key in what prints variables
            "content": json.dumps(body).encode() if body else None,
            "extensions": {
                "timeout": {"connect": self._timings.connect, "read": seconds, "write": seconds}
            },
            **more,
        }

    @staticmethod
    def _http_request(ask: Ask) -> httpx.Request:
        return httpx.Request(**ask.request)

    def _receiver(self, ask: Ask, response: httpx.Response) -> Receiver:
        """Who takes the answer in."""
        return Receiver(
            response.status_code,
            response.headers,
            base_url=self._base_url,
            max_bytes=self._max_answer_bytes,
            secrets=self._secrets,
            stream=ask.stream,
        )

    def _fault(self, ask: Ask, error: Exception) -> ApiError:
        """Say what a transport's fault means for money."""
        words = one_line(self._secrets.removed_from_text(str(error)))
        what = f"{type(error).__name__}: {words}" if words else type(error).__name__
        # Only these are raised before the first byte of the request is written.
        if isinstance(error, httpx.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in words:
            return CertificateNotTrusted(
                f"the certificate of {self._base_url} is not trusted here ({what}): if a company's "
                "proxy or firewall looks into TLS, set SSL_CERT_FILE (or REQUESTS_CA_BUNDLE) to a PEM "
                "file that holds its certificate authority; a network's login page looks like this, too"
            )
        if isinstance(error, httpx.ProxyError) and words.startswith(("403", "407")):
            return AccessNotEnabled(f"{PROXY_REFUSES} ({words}); {PROXY_CURE}")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return NeverDelivered(f"{self._base_url} was not reached ({what})")
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return NeverDelivered(f"{self._base_url} cannot be asked ({what})")
        if isinstance(error, httpx.TimeoutException):
            seconds = ask.request["extensions"]["timeout"]["read"]
            return UnknownOutcome(f"no answer within {seconds:g} s ({what})")
        return UnknownOutcome(f"the connection was lost after the request was sent ({what})")

    def _broken(self, ask: Ask, receiver: Receiver | None, error: Exception) -> Answer:
        """Say what a connection that broke means; a stream may have told its end before."""
        if ask.stream is not None and ask.stream.last is not None:
            return Answer(200, {}, b"")
        fault = self._fault(ask, error)
        if isinstance(fault, UnknownOutcome) and receiver is not None:
            # The server has had the request, whatever it was about to say.
            fault.learn(status_code=receiver.status, body_excerpt=receiver.kept())
        raise fault from None

    def _read(self, ask: Ask, answer: Answer) -> Any:
        try:
            found = ask.read(answer)
        except UnknownOutcome as error:
            error.learn(status_code=answer.status, body_excerpt=kept(answer.content))
            raise
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
            raise AnswerNotUnderstood(
                f"the answer cannot be read ({type(error).__name__})",
                status_code=answer.status,
                body_excerpt=kept(answer.content),
            ) from None
        if ask.hooks is not None:
            if isinstance(found, Submission):
                ask.hooks.submitted(found)
            else:
                ask.hooks.answered(found)
        return found

    @contextmanager
    def _watched(self, ask: Ask) -> Iterator[None]:
        """Tell hooks and gate of a request that may be charged, while its slot is held."""
        if ask.hooks is None:
            yield
            return
        if ask.submits and self._gate.in_flight.overbooked():
            raise Overbooked
        if ask.references:
            self._secrets.add(ask.offer(ask.hooks.reference_urls(ask.references)))
        ask.hooks.sending()
        try:
            yield
        except NotCharged as refusal:
            error = self._final(refusal)
            if isinstance(error, Paced) and not isinstance(error, QuotaExceeded):
                self._gate.refused(error)
            ask.hooks.not_charged(error)
            raise error from None
        except UnknownOutcome as error:
            if ask.stream is not None:
                error.learn(generation_id=ask.stream.generation_id)
            raise

    def _final(self, error: NotCharged) -> NotCharged:
        """A refusal; one that asks to wait longer than is tried again is of another kind."""
        seconds = error.retry_after_seconds or 0.0
        if not isinstance(error, ConcurrencyLimitReached) or seconds <= self._retry_for:
            return error
        moment = datetime.now(UTC) + timedelta(seconds=min(seconds, 10**9))  # else beyond the calendar
        return QuotaExceeded(
            f"{error.message}; the API asks to come back at {moment:%Y-%m-%d %H:%M} UTC, which is "
            f"longer than requests are tried again ({self._retry_for:g} s)",
            limit=error.limit,
            active=error.active,
            status_code=error.status_code,
            generation_id=error.generation_id,
            retry_after_seconds=seconds,
        )
