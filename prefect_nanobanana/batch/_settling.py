"""What the account's balance proves about requests without an answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from prefect_nanobanana.batch._job import Job
from prefect_nanobanana.models import Credits

SETTLE_AFTER_SECONDS = 120.0
"""So long after its answer was given up, a request has ended, whatever became of its connection: a
generation takes 10 to 60 s, and clients shall wait for at least 120 s (seed document)."""


def nothing_was_charged(
    jobs: Sequence[Job],
    lost: Sequence[Job],
    before: Credits | None,
    balance: Callable[[], Credits | None],
    logger: logging.Logger | logging.LoggerAdapter[Any],
) -> bool:
    """Say whether the balance proves that requests without an answer cost nothing.

    It does if the account has lost just what this run has answers for. Had anybody else spent from it
    meanwhile, it would have lost more, and nothing is proven: the requests may have been charged.

    Args:
        jobs: All of the run.
        lost: Those without an answer.
        before: The account's credits before the run, if known.
        balance: Reads them now; None if that fails.
        logger: Is told of the waiting.
    """
    asked = [job for job in jobs if not job.reused]
    if before is None or not all(job.cost_told and job.at_risk == 0 for job in asked):
        return False
    answered = sum(job.record.credits_used for job in asked)
    youngest = max(job.lost_at for job in lost)
    while True:
        now = balance()
        # Had the account lost less, credits were bought meanwhile, and may hide what was charged.
        if now is None or before - now != answered:
            return False
        left = SETTLE_AFTER_SECONDS - (time.monotonic() - youngest)
        if left <= 0:
            return True
        logger.info(
            "%d requests have no answer; in %.0f s the balance tells whether they were charged",
            len(lost),
            left,
        )
        time.sleep(left)
