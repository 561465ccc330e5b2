"""How far a prompt is, in the words that a stopped run tells what is left in."""

from __future__ import annotations

from prefect_nanobanana.batch._record import Record

PROGRESS = (
    "stored",
    "refused by the safety check",
    "failed",
    "paid and not copied",
    "begun and to be fetched",
    "without an answer",
    "not asked",
)


def progress_of(record: Record) -> str:
    """How far a prompt is, for people who go on with its batch."""
    if record.safe_to_send:
        return "not asked"
    if record.can_be_polled:
        return "begun and to be fetched"
    if record.open:
        return "without an answer"
    named = {
        "stored": "stored",
        "warning": "refused by the safety check",
        "generated": "paid and not copied",
    }
    return named.get(record.state, "failed")
