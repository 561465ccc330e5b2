"""What the requests for one prompt have cost, one by one, by its record."""

from __future__ import annotations

from prefect_nanobanana.batch._record import Record, State
from prefect_nanobanana.models import Caller, Charge, ChargeStatus

_ENDS: dict[State, ChargeStatus] = {
    "asked": "unknown",
    "submitted": "unknown",
    "unknown": "unknown",
    "generated": "waiting",
    "stored": "stored",
    "warning": "warning",
    "failed": "failed",
    "lost": "failed",
}


def charges_of(record: Record) -> tuple[Charge, ...]:
    """What each request for a prompt has cost, the last one at the end; without those that were free."""
    earlier = charges_before(record)
    return earlier if record.safe_to_send else (*earlier, _last(record))


def charges_before(record: Record) -> tuple[Charge, ...]:
    """The same without the last request."""
    earlier = record.earlier or ()
    # Earlier versions kept of earlier requests what they cost together.
    untold = max(0, record.credits_before - sum(charge.credits for charge in earlier))
    if untold:
        yielded = record.offset - sum(charge.images for charge in earlier)
        images = max(0, min(yielded, sum(n <= record.offset for n in record.images)))
        charge = Charge(
            asked_at=record.asked_at,
            model=record.request.model,
            status="earlier",
            credits=untold,
            images=images,
            quantity=max(1, images),
        )
        earlier = (charge, *earlier)
    return earlier


def models_since(before: Record, now: Record) -> set[str]:
    """The models that have been charged for between two states of a record."""
    known = {charge.attempt for charge in charges_of(before)}
    return {charge.model for charge in charges_of(now) if charge.attempt not in known}


def _last(record: Record) -> Charge:
    at_risk = (record.price or 0) if record.open and not record.credits_used else 0
    return Charge(
        asked_at=record.asked_at,
        caller=record.caller or Caller(),
        asked_by=record.asked_by,
        attempt=record.attempt,
        model=record.request.model,
        status=_ENDS[record.state],
        credits=record.credits_used,
        estimated=record.credits_estimated,
        at_risk=at_risk,
        images=sum(n > record.offset for n in record.images),
        quantity=record.request.quantity,
    )
