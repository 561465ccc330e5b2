"""How long to wait before a request may be sent again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from prefect_nanobanana._common.adjustable import Adjustable
from prefect_nanobanana.errors import (
    CertificateNotTrusted,
    NanoBananaError,
    NeverDelivered,
    Paced,
    QuotaExceeded,
)

FIRST_DELAY_SECONDS = Adjustable(0.5)
LONGEST_DELAY_SECONDS = 20.0
_FINAL = (CertificateNotTrusted, QuotaExceeded)
"""Trying these again would take longer than anybody waits, whatever they are a kind of."""


class Backoff:
    """Decides whether and when one request may be sent again.

    Args:
        budget_seconds: For how long after the first failure it may be tried again.
        again: The causes that may be tried again; by default those for which the API's error table
            says that nothing was charged and that trying again may help.
        first: The first delay in seconds, where the API asks for none; each further one is longer.
        longest: The longest such delay in seconds.
        clock: For tests.
    """

    def __init__(
        self,
        budget_seconds: float,
        again: tuple[type[NanoBananaError], ...] = (NeverDelivered, Paced),
        first: float | None = None,
        longest: float = LONGEST_DELAY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget_seconds
        self._again = again
        self._first = FIRST_DELAY_SECONDS.get() if first is None else first
        self._longest = longest
        self._clock = clock
        self._until: float | None = None
        self._tries = 0

    def delay_seconds(self, error: NanoBananaError) -> float:
        """Say how long to wait after a failure.

        Args:
            error: The failure; its `retry_after_seconds`, if it has one, is obeyed.

        Returns:
            Seconds to wait: what the API asked for if it did, else longer from time to time. A little
            chance is added, lest all who wait return at once.

        Raises:
            NanoBananaError: The failure itself, if it must not be tried again or the budget is spent.
        """
        if not isinstance(error, self._again) or isinstance(error, _FINAL):
            raise error
        now = self._clock()
        if self._until is None:
            self._until = now + self._budget
        asked: float | None = getattr(error, "retry_after_seconds", None)
        if asked is None:
            delay = min(self._first * 2.0**self._tries, self._longest)
            delay *= random.uniform(0.5, 1.0)
        else:
            # A server that asks for no wait at all is not asked as fast as it can answer.
            delay = max(asked, self._first) + random.uniform(0, 0.1)
        self._tries += 1
        if now + delay > self._until:
            raise error
        return delay
