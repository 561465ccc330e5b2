"""The books of a budget: an object in S3 for each process that spends from it.

The key says all that others must know, so that one request lists it: whose it is, how often it was
written, how much it sets aside, and whether the process still runs. The last one written of a process
counts:

    nanobanana-budgets/<budget>/<period>/<batch>.<process>~<number>~<credits>.<open or closed>.json

Numbers have nine digits: who lists in the order of keys, page by page, meets one of two that follow each
other, as the older one stays until the next but one is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from prefect_nanobanana.models import Credits, exact_credits

_DIGITS, _AMOUNT = "([0-9a-f]{12})", "([0-9.]{1,32})"
_NAME = re.compile(rf"{_DIGITS}\.{_DIGITS}~(\d{{9}})~{_AMOUNT}\.(open|closed)\.json", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """What a process has set aside, or has spent once it has ended.

    Attributes:
        batch: Digits that stand for the batch that it works on.
        process: Digits that stand for the process; its requests' attempts begin with them.
        number: How often it has written before.
        credits: How much, in credits.
        closed: Whether the process has said that it spends nothing more.
        key: Where it is, once it is there.
        written: When, by the store's own clock.
    """

    batch: str
    process: str
    number: int
    credits: Credits
    closed: bool
    key: str = ""
    written: datetime | None = None

    @property
    def name(self) -> str:
        """The last part of its key."""
        state = "closed" if self.closed else "open"
        return f"{self.batch}.{self.process}~{self.number:09}~{self.amount}.{state}.json"

    @property
    def amount(self) -> str:
        """Its credits as text, without an exponent."""
        return str(self.credits) if isinstance(self.credits, int) else f"{self.credits:f}"

    @property
    def folder(self) -> str:
        """Where it is: all of its key but the last part."""
        return self.key.rpartition("/")[0]

    @classmethod
    def read(cls, name: str, key: str, written: datetime) -> Entry | None:
        """Read the last part of a key; None of what is no entry."""
        found = _NAME.fullmatch(name)
        amount = exact_credits(found[4]) if found else None
        if found is None or amount is None:
            return None
        batch, process, number, _, state = found.groups()
        return cls(batch, process, int(number), amount, state == "closed", key, written)


def newest(entries: Iterable[Entry]) -> dict[str, Entry]:
    """The entry of each process that counts: the last one that it has written.

    Of two with one number, which only a process's own and its settling can be, the higher one.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        known = found.get(entry.process)
        if known is None or (entry.number, entry.credits) > (known.number, known.credits):
            found[entry.process] = entry
    return found
