"""The end of a run that a signal stops: how long it may take, and what is said of it."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

from prefect_nanobanana.batch._outcomes import Ended
from prefect_nanobanana.batch._progress import PROGRESS, progress_of
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.errors import InvalidInput

GRACE_VARIABLE = "NANO_BANANA_GRACE_SECONDS"
DEFAULT_GRACE_SECONDS = 20.0
"""Kubernetes and Prefect kill 30 s after SIGTERM; slots, logs and the run's state come after this."""
SLOTS_BACK_SECONDS = 3.0
"""So long a run that ends waits for Prefect's server to have its slots; a lease expires by itself."""


def grace_seconds() -> float:
    """How long a run that a signal stops waits for what is paid for.

    Raises:
        InvalidInput: If the environment says something that is not a number of seconds.
    """
    told = os.environ.get(GRACE_VARIABLE, "").strip()
    try:
        seconds = float(told) if told else DEFAULT_GRACE_SECONDS
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InvalidInput(
            f"{GRACE_VARIABLE}: {told[:40]!r} is not a number of seconds: set it to less than the time "
            "from SIGTERM to SIGKILL, as 20, or remove it"
        )
    return seconds


def what_is_left(open_records: Iterable[Record], ended: Iterable[Ended]) -> str:
    """What a stopped run has done, and leaves to the next one, in one line."""
    counts = Counter(progress_of(record) for record in open_records)
    counts.update(each.progress for each in ended)
    told = [f"{counts[where]} {where}" for where in PROGRESS if counts[where]]
    return f"stopped: {', '.join(told)}; run the same batch again to go on"


def flush(logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
    """Have all handlers of a logger send what waits."""
    each: logging.Logger | None
    each = logger.logger if isinstance(logger, logging.LoggerAdapter) else logger
    while each is not None:
        for handler in each.handlers:
            handler.flush()
        each = each.parent if each.propagate else None
