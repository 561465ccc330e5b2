"""What all of our HTTP has in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from prefect_nanobanana._version import __version__

USER_AGENT = f"prefect-nanobanana/{__version__}"


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Read `Retry-After`: seconds or an HTTP date.

    Args:
        headers: The answer's headers, with names in lower case.
        now: The present, for tests.

    Returns:
        Seconds from now, never negative; None if the header is absent or cannot be read.
    """
    value = headers.get("retry-after", "").strip()[:100]
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value, re.ASCII):
        return float(value)
    moment = _moment(value)
    if moment is None:
        return None
    # The server's own clock says how far away that is; ours may differ.
    now = now or _moment(headers.get("date", "")[:100]) or datetime.now(UTC)
    try:
        return max(0.0, (moment - now).total_seconds())
    except OverflowError:  # an odd zone at the edge of the calendar
        return None


def _moment(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError, IndexError, AttributeError):  # odd dates and zones
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
