"""What prompts have cost, and may have cost besides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.models import Charge, Credits


@dataclass(frozen=True)
class Spending:
    """What a prompt has cost, and may have cost besides, in credits.

    Attributes:
        used: What it has cost.
        at_risk: What it may have cost besides, as nothing says what became of a request.
        estimated: Whether `used` is an estimate, as the API did not say.
    """

    used: Credits = 0
    at_risk: Credits = 0
    estimated: bool = False

    @property
    def worst(self) -> Credits:
        """What it has cost at most."""
        return self.used + self.at_risk


def spending_of(record: Record, price: Credits | None) -> Spending:
    """What the last request for a prompt has cost.

    Args:
        record: What is known of it.
        price: What it costs by all that is known, in credits; None if nothing is.
    """
    told = record.generation.credits_used if record.generation else None
    if record.open:
        at_risk = 0 if record.credits_used else price or 0
        return Spending(record.credits_used, at_risk, record.credits_estimated)
    paid = record.state in ("generated", "stored", "warning", "failed", "lost")
    return Spending(record.credits_used, estimated=paid and told is None)


def with_charges(last: Spending, charges: Iterable[Charge]) -> Spending:
    """What a request has cost, and those before it."""
    charges = list(charges)
    return Spending(
        last.used + sum(charge.credits for charge in charges),
        last.at_risk + sum(charge.at_risk for charge in charges),
        last.estimated or any(charge.estimated for charge in charges),
    )


def last_of(asked_by: str | None, record: Record, price: Credits | None) -> Spending:
    """The same, if it was this call that sent the request; else nothing."""
    return spending_of(record, price) if record.maybe_paid_by(asked_by) else Spending()
