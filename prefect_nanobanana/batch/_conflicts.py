"""What happens when two runs of a batch write the same record."""

from __future__ import annotations

from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.errors import LedgerError, NanoBananaError


class Claimed(NanoBananaError):
    """Another run of the batch has this prompt in hand."""


class Overtaken(LedgerError):
    """Another run of the batch has sent a request for the same prompt, and written its record."""


class NotCurrent(Exception):
    """A record was not written, as another one is there than this ledger knows of."""

    def __init__(self, stored: Record | None) -> None:
        self.stored = stored
