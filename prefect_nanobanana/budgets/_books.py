"""The books of a budget, in S3: what processes have written of themselves."""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256

from prefect_nanobanana._common.naming import slug
from prefect_nanobanana.budgets._entries import Entry
from prefect_nanobanana.budgets._periods import Period
from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.s3 import ObjectStore

FOLDER = "nanobanana-budgets"
"""Below the folder of the bucket block; no batch is called that."""


class Books:
    """The books of one budget.

    Args:
        store: Where they are.
        name: The budget's.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store = store
        short = slug(name)
        # Names that differ in what a key cannot hold have books of their own.
        self._folder = short if short == name else f"{short}-{sha256(name.encode()).hexdigest()[:8]}"

    def key(self, period: Period, name: str = "") -> str:
        """The key of an entry, or of all that a period has."""
        return self._store.key(FOLDER, self._folder, period.name, name)

    def entries(self, period: Period) -> list[Entry]:
        """List what is written there.

        Raises:
            StorageError: If it cannot be listed.
        """
        prefix = self.key(period) + "/"
        found = (
            Entry.read(each.key.removeprefix(prefix), each.key, each.written)
            for each in self._store.keys(prefix)
        )
        return [entry for entry in found if entry is not None]

    def put(self, entry: Entry, batch: str) -> None:
        """Write an entry, and the address of the batch that it is about.

        Raises:
            StorageError: If it cannot be written.
        """
        about = {"batch": batch, "credits": entry.amount, "closed": entry.closed}
        self._store.put(entry.key, json.dumps(about).encode(), "application/json")

    def batch_of(self, entry: Entry) -> str | None:
        """The address of the batch that an entry is about; None if it does not say.

        Raises:
            StorageError: If it cannot be read.
        """
        found = self._store.find(entry.key)
        try:
            about = json.loads(found[0]) if found else None
        except ValueError:
            return None
        batch = about.get("batch") if isinstance(about, dict) else None
        return batch if isinstance(batch, str) else None

    def remove(self, entry: Entry) -> None:
        """Remove an entry that counts no more, as there is a newer one, if the store lets us."""
        with suppress(StorageError):
            self._store.remove(entry.key)
