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
    earlier = record.earlier or ()
    # Earlier versions kept of earlier requests what they cost together.
    untold = max(0, record.credits_before - sum(charge.credits for charge in earlier))
    if untold:
        yielded = record.offset - sum(charge.images for charge in earlier)
        images = max(0, min(yielded, sum(n <= record.offset for n in record.images)))
        model, asked = record.request.model, max(1, images)
        charge = Charge(record.asked_at, Caller(), model, "earlier", untold, 0, images, asked)
        earlier = (charge, *earlier)
    return earlier if record.safe_to_send else (*earlier, _last(record))


def _last(record: Record) -> Charge:
    at_risk = (record.price or 0) if record.open and not record.credits_used else 0
    return Charge(
        record.asked_at,
        record.caller or Caller(),
        record.request.model,
        _ENDS[record.state],
        record.credits_used,
        at_risk,
        sum(n > record.offset for n in record.images),
        record.request.quantity,
    )
