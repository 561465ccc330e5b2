"""What the sandbox can be told to do wrong, and what each does to the account."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Mapping

FAULTS: Mapping[str, str] = {
    "reset_before": "the connection is reset before the request is read: not charged",
    "reset_after": "the generation runs and is charged, then the connection is reset",
    "cut": "charged; the answer breaks off in the middle of its body",
    "stall": "charged; no answer ever comes",
    "bad_json": "charged; the answer is truncated JSON",
    "empty": "charged; the answer has no body",
    "html": "charged; the answer is an HTML page with status 200",
    "no_credits_told": "charged; the answer leaves the credits out",
    "400": "bad parameters: not charged",
    "401": "wrong key: not charged",
    "402": "credits used up: not charged",
    "403": "account not enabled: not charged",
    "429": "too many requests, without Retry-After: not charged",
    "429_seconds": "too many requests, Retry-After in seconds: not charged",
    "429_date": "too many requests, Retry-After as an HTTP date: not charged",
    "429_html": "too many requests, as a proxy's page: not charged",
    "500": "charged, then an error as JSON",
    "502": "charged, then a proxy's HTML page",
    "503": "busy, as the async mode says it: refunded",
    "503_html": "charged, then a proxy's HTML page",
    "504": "charged, then a proxy's HTML page",
    "warning": "charged; the safety check refuses it",
    "failed": "charged; the generation fails at status 200",
}
"""Each fault of `POST /generate`, and what it does."""


class Faults:
    """Which fault the next request meets: first those queued, then by chance.

    Args:
        chances: A probability (0 to 1) per fault.
        seed: Makes chance repeatable.
    """

    def __init__(self, chances: Mapping[str, float] | None = None, seed: int = 0) -> None:
        self._chances = dict(chances or {})
        for name in self._chances:
            self._check(name)
        self._random = random.Random(seed)
        self._queued: deque[str | None] = deque()
        self._lock = threading.Lock()

    def queue(self, *names: str | None) -> None:
        """Say what the next requests meet, one each; None for nothing wrong.

        Raises:
            ValueError: If there is no such fault.
        """
        for name in names:
            if name is not None:
                self._check(name)
        with self._lock:
            self._queued.extend(names)

    def next(self) -> str | None:
        """Take the fault for one request; None for nothing wrong."""
        with self._lock:
            if self._queued:
                return self._queued.popleft()
            for name, chance in self._chances.items():
                if self._random.random() < chance:
                    return name
            return None

    @staticmethod
    def _check(name: str) -> None:
        if name not in FAULTS:
            raise ValueError(f"there is no fault {name!r}; there are: {', '.join(FAULTS)}")
