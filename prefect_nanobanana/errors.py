"""What can go wrong, one class per cause.

Sorted by what a failure means for money, because that decides what may be done next:

    NanoBananaError
    ├── InvalidInput                  ours: found before anything was spent
    ├── ApiError                      what the API did, or did not, answer
    │   ├── NotCharged
    │   │   ├── NeverDelivered        the request did not reach the API: may be sent again
    │   │   │   └── CertificateNotTrusted     not before the certificates are in order
    │   │   ├── Paced                 the API asks to wait: may be sent again after that
    │   │   │   ├── ConcurrencyLimitReached   429
    │   │   │   │   └── QuotaExceeded         longer than requests are tried again: come back later
    │   │   │   └── ServerBusy                503, refunded
    │   │   └── Rejected              refused for good: sending it again changes nothing
    │   │       ├── BadRequest                400 and other 4xx
    │   │       ├── AuthenticationFailed      401
    │   │       ├── CreditsUsedUp             402
    │   │       ├── AccessNotEnabled          403
    │   │       └── ModelNotAllowed           403 for this model alone: it needs another plan
    │   └── UnknownOutcome            the request left, no usable answer came: maybe charged,
    │       │                         never sent again by default
    │       ├── AnswerNotUnderstood   an answer came, but it cannot be read
    │       └── StillRunning          begun, and not finished when the waiting ended: ask by its id
    ├── StorageError                  S3 and image hosts
    │   ├── ImageNotCopied            this one image could not be copied
    │   ├── StoreRefuses              the store takes no more of this: full, over quota, too large
    │   └── BucketNotUsable           no image can be stored: access, bucket or credentials are wrong
    ├── LedgerError                   a record could not be read or written: nothing may be spent
    ├── BooksDoNotBalance             a report whose counts do not add up: a bug, never hidden
    └── RunFailed                     the final state of a flow run that `fail_on` turned red

A safety warning is no error: it is a `Generation` with `status="warning"`. See docs/api.md.
"""

from __future__ import annotations

from typing import Any

from prefect_nanobanana._common.text import presentable

__all__ = [
    "AccessNotEnabled",
    "AnswerNotUnderstood",
    "ApiError",
    "AuthenticationFailed",
    "BadRequest",
    "BooksDoNotBalance",
    "BucketNotUsable",
    "CertificateNotTrusted",
    "ConcurrencyLimitReached",
    "CreditsUsedUp",
    "ImageNotCopied",
    "InvalidInput",
    "LedgerError",
    "ModelNotAllowed",
    "NanoBananaError",
    "NeverDelivered",
    "NotCharged",
    "Paced",
    "QuotaExceeded",
    "Rejected",
    "RunFailed",
    "ServerBusy",
    "StillRunning",
    "StorageError",
    "StoreRefuses",
    "UnknownOutcome",
]

MAX_PROBLEMS = 20
"""Shown at once: who has made one mistake in 20,000 lines reads of 20."""


class NanoBananaError(Exception):
    """Base of everything this package raises; what it quotes is fit to be shown."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*(presentable(word) if isinstance(word, str) else word for word in words))


class InvalidInput(NanoBananaError, ValueError):
    """A prompt, file or parameter is wrong; found before any credit was spent.

    Args:
        *problems: One sentence each: place (file, line, field), what is wrong, and the cure.
    """

    def __init__(self, *problems: str) -> None:
        shown = [presentable(problem) for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            shown.append(f"and {len(problems) - MAX_PROBLEMS} more")
        self.problems: tuple[str, ...] = tuple(shown)
        super().__init__(*shown)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return f"{len(self.problems)} problems:\n" + "\n".join(f"- {p}" for p in self.problems)


class ApiError(NanoBananaError):
    """The API did not do what was asked.

    Args:
        message: What happened, for a person; never holds the API key.
        status_code: The HTTP status, if an answer came.
        generation_id: The generation's id, if the answer named one.
        retry_after_seconds: How long the API asked to wait, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        generation_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = str(self.args[0])
        self.status_code = status_code
        self.generation_id = generation_id
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default pickling, which Dask and Ray rely on.
        return (_rebuild, (type(self), self.message, dict(self.__dict__)))


def _rebuild(cls: type[ApiError], message: str, state: dict[str, Any]) -> ApiError:
    error = cls(message)
    error.__dict__.update(state)
    return error


class NotCharged(ApiError):
    """Nothing was charged for this request."""


class NeverDelivered(NotCharged):
    """The request never reached the API: connection refused, DNS or TLS failure."""


class CertificateNotTrusted(NeverDelivered):
    """The server's certificate is not trusted on this machine; trying again changes nothing."""


class Paced(NotCharged):
    """The API asks to wait and try again."""


class ConcurrencyLimitReached(Paced):
    """429: the account has more requests open than it may have.

    Args:
        message: What happened.
        limit: How many requests the account may have open, if the API said so.
        active: How many it has open, if the API said so.
        **details: As for `ApiError`.
    """

    def __init__(
        self,
        message: str,
        *,
        limit: int | None = None,
        active: int | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.limit = limit
        self.active = active


class QuotaExceeded(ConcurrencyLimitReached):
    """429 that asks to come back later than requests are tried again: no other prompt will do better."""


class ServerBusy(Paced):
    """503 in async mode: the API is busy; credits are refunded."""


class Rejected(NotCharged):
    """The API refused the request for good; trying again changes nothing."""


class BadRequest(Rejected):
    """400: the parameters are wrong."""


class AuthenticationFailed(Rejected):
    """401: the API key is missing or wrong."""


class CreditsUsedUp(Rejected):
    """402: the account has no credits left; no other prompt of the run will do better."""


class AccessNotEnabled(Rejected):
    """403: the account is not enabled for the API."""


class ModelNotAllowed(Rejected):
    """403 for one model that needs another plan; prompts for other models are not concerned."""


class UnknownOutcome(ApiError):
    """The request was sent and maybe charged, but its outcome is not known.

    A time-out, a cut connection, 500, 502, 504, or a proxy's page. Sending it again may pay twice.

    Args:
        message: What happened.
        body_excerpt: What came, as far as it may hold the address of something paid: at most 2,000
            characters, without the API key; addresses in it may be signed. None if nothing did.
        **details: As for `ApiError`.
    """

    def __init__(self, message: str, *, body_excerpt: str | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.body_excerpt = body_excerpt

    def learn(self, **details: Any) -> None:
        """Take in `status_code`, `generation_id`, `body_excerpt`; what is known already stays."""
        for name, value in details.items():
            setattr(self, name, getattr(self, name) or value)


class AnswerNotUnderstood(UnknownOutcome):
    """An answer came that cannot be read: truncated JSON, an empty body, HTML."""


class StillRunning(UnknownOutcome):
    """The API has begun the generation, most likely paid, and it was not seen to end in time.

    Its `generation_id` is kept, and its end can be asked for later, at no cost.
    """


class StorageError(NanoBananaError):
    """An image could not be brought to S3."""


class ImageNotCopied(StorageError):
    """One image could not be fetched, is no whole picture, or could not be stored.

    Attributes:
        gone: Whether its host has answered, and as if there were no such image any more.
        fetched: Whether it was had from its host, and could not be kept here.
    """

    def __init__(self, message: str, *, gone: bool = False, fetched: bool = False) -> None:
        super().__init__(message)
        self.gone = gone
        self.fetched = fetched


class StoreRefuses(StorageError):
    """The store, or a proxy before it, takes no more of this, and sending it again changes nothing.

    A proxy's 413, 507, S3's `EntityTooLarge`, a quota that is used up. A smaller object may fare better.

    Attributes:
        answer: What it answered, as `507 XMinioStorageFull: ...`; at most 200 characters.
    """

    def __init__(self, message: str, answer: str = "") -> None:
        super().__init__(message)
        self.answer = answer


class BucketNotUsable(StorageError):
    """The bucket refuses all copies: it does not exist, or the credentials or rights are wrong."""


class LedgerError(NanoBananaError):
    """A record of the ledger could not be read or written, so nothing may be spent."""


class BooksDoNotBalance(NanoBananaError):
    """The outcomes do not add up to the prompts: a bug of this package, shown rather than hidden."""


class RunFailed(NanoBananaError):
    """A run that `fail_on` turned red. What was stored stays stored.

    Args:
        message: The summary of the run.
        report: The run's `RunReport`, published before this was raised.
    """

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message, report)
        self.message = str(self.args[0])
        self.report = report

    def __str__(self) -> str:
        return self.message
