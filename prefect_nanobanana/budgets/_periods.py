"""Days, weeks and months as people in a time zone count them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

PeriodKind = Literal["day", "week", "month"]


@dataclass(frozen=True)
class Period:
    """One day, week or month.

    Attributes:
        name: As `2026-11-27`, `2026-W48` or `2026-11`.
        ends: When the next one begins, UTC.
    """

    name: str
    ends: datetime


def period_of(moment: datetime, kind: PeriodKind, zone: ZoneInfo) -> Period:
    """The period that a moment is in.

    Args:
        moment: Any moment, with its time zone.
        kind: How long periods are.
        zone: Whose midnight counts.
    """
    day = moment.astimezone(zone).date()
    match kind:
        case "day":
            return Period(day.isoformat(), _midnight(day + timedelta(days=1), zone))
        case "week":
            year, week, weekday = day.isocalendar()
            return Period(f"{year}-W{week:02}", _midnight(day + timedelta(days=8 - weekday), zone))
        case "month":
            following = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
            return Period(f"{day:%Y-%m}", _midnight(following, zone))


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """When a day begins. Where clocks are put forward at midnight, it begins at one o'clock."""
    return datetime.combine(day, time(), zone).astimezone(UTC)
