"""What a budget allows."""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from prefect_nanobanana._common.text import in_credits, number
from prefect_nanobanana.budgets._periods import Period, PeriodKind
from prefect_nanobanana.models import Credits


@dataclass(frozen=True)
class BudgetTerms:
    """What a budget allows.

    Attributes:
        name: Runs that name the same budget in the same bucket share it.
        credits: The most that all of them may spend in a period, in credits.
        kind: How long a period is.
        zone: Whose midnight ends it.
    """

    name: str
    credits: Credits
    kind: PeriodKind
    zone: ZoneInfo

    def left(self, room: Credits, period: Period) -> str:
        """Say what is left, and until when."""
        ends = period.ends.astimezone(self.zone)
        return (
            f"{self.name!r} has {number(max(0, room))} of {in_credits(self.credits)} left until "
            f"{ends:%Y-%m-%d %H:%M} {self.zone.key}"
        )
