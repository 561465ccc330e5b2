"""What requests have cost, added up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date
from fractions import Fraction
from typing import Annotated

from pydantic import AfterValidator, Field

from prefect_nanobanana.models import Charge, ChargeStatus, Credits, exact_credits, not_negative

Count = Annotated[int, Field(ge=0, lt=10**9)]
Amount = Annotated[Credits, AfterValidator(not_negative)]
"""Statements are read as input from strangers: whoever may write the bucket may have written them."""

NOT_RECORDED = ""
"""The flow of requests that earlier versions sent, or that left outside of flows."""


@dataclass(frozen=True, slots=True)
class StatementRow:
    """What requests of one day, flow, model and end have cost together.

    Attributes:
        day: The day on which they left, UTC.
        flow: The flow that sent them, with its deployment; empty if nobody noted it.
        model: The model that was asked.
        status: What became of them.
        requests: How many they are.
        images: How many images they yielded that are in S3.
        credits: What they have cost, in credits.
        without_image: The part of it that no stored image came of.
        at_risk: What they may have cost besides.
    """

    day: date
    flow: str
    model: str
    status: ChargeStatus
    requests: Count
    images: Count
    credits: Amount
    without_image: Amount
    at_risk: Amount


def rows_of(charges: Iterable[Charge]) -> list[StatementRow]:
    """Add up charges by day, flow, model and end; those that say no day are left out."""
    found: dict[tuple[date, str, str, ChargeStatus], list[Charge]] = {}
    for charge in charges:
        day = _day(charge)
        if day is not None:
            flow = charge.caller.flow or NOT_RECORDED
            found.setdefault((day, flow, charge.model, charge.status), []).append(charge)
    return [
        StatementRow(
            *where,
            requests=len(those),
            images=sum(charge.images for charge in those),
            credits=sum(charge.credits for charge in those),
            without_image=_exact(sum((charge.without_image for charge in those), Fraction(0))),
            at_risk=sum(charge.at_risk for charge in those),
        )
        for where, those in sorted(found.items())
    ]


def _day(charge: Charge) -> date | None:
    """The day on which a request left, UTC."""
    at = charge.asked_at
    try:
        return (
            None if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).date()
        )
    except OverflowError:  # the first or last day that there is, in another zone
        return None


def _exact(amount: Fraction) -> Credits:
    return exact_credits(float(amount)) or 0
