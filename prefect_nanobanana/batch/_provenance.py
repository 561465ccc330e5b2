"""Where a prompt's outcome comes from, by its record."""

from __future__ import annotations

import re

from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.models import Caller, Origin, Provenance

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def provenance_of(record: Record) -> Provenance:
    """Say who asked for what, and when."""
    run = (record.asked_by or "").partition("/")[0]  # a call below other runs has a digest after it
    stored_at = record.stored_at or {}
    # Earlier versions kept of all images together when the last one was there.
    last = record.updated_at if record.state == "stored" else None
    return Provenance(
        key=record.key,
        request=record.request,
        variables=tuple((record.variables or {}).items()),
        asked_at=record.asked_at,
        caller=record.caller or Caller(),
        flow_run_id=run if _ID.fullmatch(run) else None,
        images=tuple(Origin(n, stored_at.get(n, last)) for n in sorted(record.images)),
    )
