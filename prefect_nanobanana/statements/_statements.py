"""The statements of one account: an object in S3 for each of its batches.

    nanobanana-credits/<account>/<batch>-<digits>.json
    nanobanana-credits/<account>.json

The first is made of the batch's records, anew whenever a run of it ends, so that it holds what killed
runs have spent, too. The second repeats all of the first, with the versions that it was made of: what
has not changed need not be read one by one. Records remain the truth, and both can be made again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from typing import Literal
from unicodedata import normalize

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_nanobanana._common.naming import slug
from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.models import Charge, Credits
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.statements._rows import StatementRow, rows_of

FOLDER = "nanobanana-credits"
"""Below the folder of the bucket block; no batch is called that."""
_JSON = "application/json"
_ACCOUNT = re.compile(r"[0-9a-f]{12}")


class _Statement(BaseModel):
    """What a batch has cost."""

    model_config = ConfigDict(extra="ignore")

    version: Literal[1] = 1
    batch: str
    rows: tuple[StatementRow, ...]


class _Known(BaseModel):
    """The rows of a statement, and the tag of the version that they were read of."""

    tag: str
    rows: tuple[StatementRow, ...]


class _Overview(BaseModel):
    """All statements."""

    model_config = ConfigDict(extra="ignore")

    version: Literal[1] = 1
    statements: dict[str, _Known]


@dataclass(frozen=True)
class _Listed:
    tag: str
    written: datetime


class Statements:
    """The statements of an account in one folder of a bucket.

    Args:
        store: Where the batches are.
        account: What tells accounts apart.
    """

    def __init__(self, store: ObjectStore, account: str) -> None:
        self._store = store
        self._account = account
        self._own: dict[str, _Known] = {}

    def write(self, batch: str, charges: Iterable[Charge]) -> None:
        """Write what a batch has cost. Requests that name no account are counted as this one's.

        Args:
            batch: Its name.
            charges: All that its records say.

        Raises:
            StorageError: If it cannot be written.
        """
        by_account: dict[str, list[Charge]] = {self._account: []}  # else it would be looked for anew
        for charge in charges:
            named = charge.caller.account or ""
            account = named if _ACCOUNT.fullmatch(named) else self._account
            by_account.setdefault(account, []).append(charge)
        for account, its in by_account.items():
            rows, name = tuple(rows_of(its)), _name(batch)
            body = _Statement(batch=batch, rows=rows).model_dump_json().encode()
            stored = self._store.put(self._key(account, name), body, _JSON)
            if account == self._account:
                self._own[name] = _Known(tag=stored.tag, rows=rows)

    def behind(self, newest: Mapping[str, datetime]) -> list[str]:
        """Find batches whose records are newer than what was written of them, as after a kill.

        Args:
            newest: When the newest record of each batch was written, by the batch's name.

        Raises:
            StorageError: If the statements cannot be listed.
        """
        listed = self._listed()
        never = datetime.min.replace(tzinfo=UTC)
        written = {batch: listed[name].written for batch in newest if (name := _name(batch)) in listed}
        return [batch for batch, moment in newest.items() if written.get(batch, never) < moment]

    def rows(self, since: date) -> list[StatementRow]:
        """What the account has spent, by all statements.

        Args:
            since: The first day that counts.

        Returns:
            The rows of all batches; what of them cannot be read is left out.

        Raises:
            StorageError: If they cannot be listed.
        """
        # Nothing can have been asked after its statement was written, but for clocks that differ.
        first = datetime.combine(since, time(), UTC) - timedelta(days=1)
        listed = {name: each for name, each in self._listed().items() if each.written >= first}
        overview = self._overview()
        current = self._current(listed, overview)
        if current != overview:
            self._save(current)
        return [row for each in current.values() for row in each.rows if row.day >= since]

    @classmethod
    def credits_by_batch(cls, store: ObjectStore, batches: Iterable[str]) -> dict[str, Credits]:
        """What batches have cost, by the statements of all accounts.

        Args:
            store: Where the batches are.
            batches: Their names.

        Returns:
            Credits by the batch's name, warnings and failures included; without batches that have no
            statement, as earlier versions made them.

        Raises:
            StorageError: If the statements cannot be listed.
        """
        prefix = store.key(FOLDER) + "/"
        folders = {each.key.removeprefix(prefix).partition("/")[0] for each in store.keys(prefix)}
        spent: dict[str, Credits] = {}
        for account in sorted(filter(_ACCOUNT.fullmatch, folders)):
            its = cls(store, account)
            for name, statement in its._current(its._listed(), its._overview()).items():
                cost = sum(row.credits for row in statement.rows)
                spent[name] = spent.get(name, 0) + cost
        return {batch: spent[name] for batch in batches if (name := _name(batch)) in spent}

    def _current(
        self, listed: Mapping[str, _Listed], overview: Mapping[str, _Known]
    ) -> dict[str, _Known]:
        """What listed statements say; those that are not in the overview are read one by one."""
        known = {**overview, **self._own}
        current = {
            name: known[name]
            for name, each in listed.items()
            if name in known and known[name].tag == each.tag
        }
        changed = [name for name in listed if name not in current]
        with ThreadPoolExecutor(ObjectStore.POOL_CONNECTIONS // 2) as pool:
            read = zip(changed, pool.map(self._read, changed), strict=True)
            current |= {
                name: _Known(tag=listed[name].tag, rows=rows) for name, rows in read if rows is not None
            }
        return current

    def _key(self, *parts: str) -> str:
        *folders, name = parts
        return self._store.key(FOLDER, *folders, f"{name}.json")

    def _listed(self) -> dict[str, _Listed]:
        prefix = self._store.key(FOLDER, self._account) + "/"
        return {
            item.key.removeprefix(prefix).removesuffix(".json"): _Listed(
                item.etag.strip('"') or item.written.astimezone(UTC).isoformat(), item.written
            )
            for item in self._store.keys(prefix)
        }

    def _overview(self) -> dict[str, _Known]:
        try:
            found = self._store.find(self._key(self._account))
            return _Overview.model_validate_json(found[0]).statements if found else {}
        except (
            StorageError,
            ValidationError,
            RecursionError,
        ):  # the statements are read one by one then
            return {}

    def _save(self, statements: Mapping[str, _Known]) -> None:
        body = _Overview(statements=dict(statements)).model_dump_json().encode()
        try:
            self._store.put(self._key(self._account), body, _JSON)
        except StorageError:
            return  # the next run reads more

    def _read(self, name: str) -> tuple[StatementRow, ...] | None:
        try:
            found = self._store.find(self._key(self._account, name))
            return _Statement.model_validate_json(found[0]).rows if found else None
        except (StorageError, ValidationError, RecursionError):
            return None


def _name(batch: str) -> str:
    """Names of batches may differ in what a key cannot hold; stores on a Mac's disk list them in NFD."""
    batch = normalize("NFC", batch)
    return f"{slug(batch, 60)}-{sha256(batch.encode()).hexdigest()[:12]}"
