"""Writes records of what may have been paid, and does not give up soon."""

from __future__ import annotations

import time
from collections.abc import Callable

from prefect_nanobanana._common.backoff import Backoff
from prefect_nanobanana.batch._conflicts import Overtaken
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.errors import BucketNotUsable, LedgerError, NanoBananaError


class PatientWriter:
    """Tries again to write a record; a bucket that has refused one for long is asked once for others.

    Args:
        write_once: Writes one.
        seconds: For how long one is tried to be written.
    """

    def __init__(self, write_once: Callable[[Record], None], seconds: float) -> None:
        self._write_once = write_once
        self._seconds = seconds
        self._refused = False

    def write(self, record: Record) -> None:
        """Write a record; see `Ledger.write`.

        Raises:
            BucketNotUsable: If nothing can be written there.
            LedgerError: If it could not be written for another reason.
        """
        backoff = Backoff(0.0 if self._refused else self._seconds, again=(LedgerError, BucketNotUsable))
        while True:
            try:
                self._write_once(record)
                self._refused = False
                return
            except Overtaken:
                raise
            except (BucketNotUsable, LedgerError) as error:
                try:
                    delay = backoff.delay_seconds(error)
                except NanoBananaError:
                    self._refused = isinstance(error, BucketNotUsable)
                    raise
            time.sleep(delay)
