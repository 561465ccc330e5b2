"""What the account's balance proves about requests without an answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from prefect_nanobanana.batch._job import Job
from prefect_nanobanana.batch._spending import Spending
from prefect_nanobanana.credentials import NanoBananaCredentials
from prefect_nanobanana.errors import ApiError, NanoBananaError
from prefect_nanobanana.models import Credits


class BalanceProof:
    """Says which requests without an answer cost nothing, as the account's balance shows.

    The balance shows it if the account has lost just what the run has answers for. That is believed only
    where nothing else can have moved the balance, as far as that can be known: no answer came to the
    request at all (a server that says 500 has had it, and may have charged it), the API has given no
    credits back for being busy, and each answer of the run said what it cost.

    Args:
        credentials: Whose account it is.
        before: The account's credits before the run, if known.
        settle_after_seconds: How long after its answer was given up a request has ended.
        logger: Is told of the waiting.
    """

    def __init__(
        self,
        credentials: NanoBananaCredentials,
        before: Credits | None,
        settle_after_seconds: float,
        logger: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._credentials = credentials
        self._before = before
        self._settle_after = settle_after_seconds
        self._logger = logger

    def not_charged(self, answered: Spending, lost: Sequence[Job], refunds: bool) -> list[Job]:
        """Settle requests without an answer.

        Args:
            answered: What the run's other requests have cost.
            lost: Those without an answer.
            refunds: Whether the API has given credits back during the run.

        Returns:
            Those that cost nothing, which their records say now, and may be asked again.
        """
        if not lost or refunds or any(_was_answered(job) for job in lost):
            return []
        if not self._nothing_was_charged(answered, lost):
            return []
        free = []
        for job in lost:
            try:
                job.proven_free()  # unless another run has taken it in hand meanwhile
            except NanoBananaError:
                continue
            free.append(job)
        return free

    def _nothing_was_charged(self, answered: Spending, lost: Sequence[Job]) -> bool:
        asked = [answered, *(job.spent_here(None) for job in lost if not job.reused)]
        if self._before is None or any(spending.estimated for spending in asked):
            return False
        told = sum(spending.used for spending in asked)
        youngest = max(job.lost_at for job in lost)
        while True:
            now = self._balance()
            # Had the account lost less, credits were bought meanwhile, and may hide what was charged.
            if now is None or self._before - now != told:
                return False
            left = self._settle_after - (time.monotonic() - youngest)
            if left <= 0:
                return True
            self._logger.info(
                "%d requests have no answer; in %.0f s the balance tells whether they were charged",
                len(lost),
                left,
            )
            time.sleep(left)

    def _balance(self) -> Credits | None:
        try:
            with self._credentials.get_client() as client:
                return client.credits()
        except ApiError:
            return None


def _was_answered(job: Job) -> bool:
    return isinstance(job.error, ApiError) and job.error.status_code is not None
