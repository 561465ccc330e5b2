"""Where a prompt's outcome comes from, by its record."""

from __future__ import annotations

import re

from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.models import Caller, Origin, Provenance

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def provenance_of(record: Record) -> Provenance:
    """Say who asked for what, and when."""
    caller = record.caller or Caller()
    # Earlier versions kept the call alone, which begins with a run, and when the last image was there.
    run = caller.flow_run_id or (record.asked_by or "").partition("/")[0]
    last = record.updated_at if record.state == "stored" and record.stored_at is None else None
    stored_at = record.stored_at or {}
    return Provenance(
        key=record.key,
        request=record.request,
        variables=tuple((record.variables or {}).items()),
        asked_at=record.asked_at,
        caller=caller,
        flow_run_id=run if _ID.fullmatch(run) else None,
        images=tuple(
            Origin(n, stored_at.get(n, last), earlier=n <= record.offset) for n in sorted(record.images)
        ),
    )
