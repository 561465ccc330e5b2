"""What was asked, paid and stored: one record per prompt of a batch, in S3 beside the images.

A record is written before the request that may be charged leaves, and after every step that follows
(`_record.py` has the states), so that whatever dies when, the next run knows what was paid.

A record that cannot be read is never taken for one that is not there: the run stops. What is read is
checked as input from strangers, as whoever may write the bucket may have written it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from prefect_nanobanana.batch._conflicts import Claimed, NotCurrent, Overtaken
from prefect_nanobanana.batch._index import RecordIndex
from prefect_nanobanana.batch._keys import check_batch, existing_batch
from prefect_nanobanana.batch._parser import RecordParser
from prefect_nanobanana.batch._patience import PatientWriter
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._timing import TIMING, Timing
from prefect_nanobanana.errors import BucketNotUsable, LedgerError, StorageError
from prefect_nanobanana.models import Caller
from prefect_nanobanana.s3 import ObjectStore, PreconditionFailed

Known = tuple[str | None, str | None]
"""Version and attempt of what is stored."""
_WRITE_TRIES = 5
_CLAIMED = "another run of this batch is asking for it at this moment"


class Ledger:
    """The records of one batch.

    Args:
        store: Where they are.
        batch: Its name.
        asked_by: Goes into the records, to tell which call has asked.
        caller: Goes into them, too: whom that was for.
        timing: How long it waits.
    """

    def __init__(
        self,
        store: ObjectStore,
        batch: str,
        asked_by: str | None = None,
        caller: Caller | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.store = store
        self.batch = batch
        self.asked_by, self.caller = asked_by, caller
        self._timing = timing or TIMING.get()
        self._versions, self._attempts = dict[str, str | None](), dict[str, str | None]()
        self._patience = PatientWriter(self.write_once, self._timing.write_again_for)
        self._parser = RecordParser(store, batch)
        self.index = RecordIndex(store, self.key("records.jsonl"), self._parser)

    @classmethod
    def open(
        cls,
        store: ObjectStore,
        batch: str,
        asked_by: str | None = None,
        caller: Caller | None = None,
    ) -> Ledger:
        """Open the ledger of a batch that a person has named.

        Raises:
            InvalidInput: If the name cannot name a batch.
            StorageError: If the bucket cannot be listed.
        """
        return cls(store, existing_batch(check_batch(batch), store), asked_by, caller)

    def exists(self) -> bool:
        """Whether the batch has any record."""
        return any(True for _ in self._listed())

    def key(self, *parts: str) -> str:
        """Join parts below the batch's folder."""
        return self.store.key(self.batch, *parts)

    def known(self, key: str) -> Known:
        """What this knows of the stored record of a prompt, for another process to `learn`."""
        return self._versions.get(key), self._attempts.get(key)

    def learn(self, key: str, known: Known, record: Record | None = None) -> None:
        """Take over what the ledger of another process knows of a stored record."""
        self._versions[key], self._attempts[key] = known
        if record is not None:
            self.index.note(record.written(), known[0] or "")

    def read(self, wanted: Iterable[str]) -> dict[str, Record]:
        """Read the records that there are of some prompts.

        Args:
            wanted: The prompts' keys.

        Returns:
            The records that exist, by key.

        Raises:
            BucketNotUsable: If the bucket does not let itself be read.
            LedgerError: If any record that exists cannot be read.
        """
        known = dict(self._listed())
        return self._read_all({key: known[key] for key in wanted if key in known})

    def read_others(self, wanted: Iterable[str], *, changed: bool = False) -> dict[str, Record]:
        """Read the records of the batch that are not of these prompts; see `read`.

        Args:
            wanted: The prompts' keys.
            changed: Whether to read those of them, too, that are not as this ledger knows them.
        """
        known = {key: (self._versions.get(key) if changed else None) or "" for key in wanted}
        stale = {k: t for k, t in self._listed() if k not in known or (t and known[k] not in ("", t))}
        return self._read_all(stale)

    def read_again(self, key: str) -> Record | None:
        """Read one record as it is now.

        Raises:
            BucketNotUsable: If the bucket does not let itself be read.
            LedgerError: If it cannot be read.
        """
        record = self._find(key)
        if record is not None:
            self._attempts[key] = record.attempt
        return record

    def whole(self, record: Record) -> Record:
        """A record that was read, itself: one from the index lacks its small pictures.

        Raises:
            BucketNotUsable: If the bucket does not let itself be read.
            LedgerError: If it cannot be read.
        """
        return self._read(record.key) if self.index.holds(record.key) else record

    def write(self, record: Record) -> None:
        """Write a record, and do not give up soon, as something may have been paid.

        Raises:
            BucketNotUsable: If nothing can be written there.
            LedgerError: If it could not be written for another reason, or if another run has written
                this record since.
        """
        self._patience.write(record)

    def write_once(self, record: Record) -> None:
        """Write a record, and give up soon; see `write`."""
        if not self._conditional:
            return self._put(record)
        what = f"the record {self._path(record.key)}"
        for _ in range(_WRITE_TRIES):
            try:
                return self._put_if_unchanged(record)
            except NotCurrent as found:
                # Two runs may ask for the end of one request, and know the same of it.
                if found.stored is not None and found.stored.attempt != record.attempt:
                    raise Overtaken(
                        f"{what} was written by another run of the batch meanwhile"
                    ) from None
        raise LedgerError(f"{what} changes all the time")

    def claim(self, record: Record) -> None:
        """Write a record only if nobody else has since this ledger read or wrote it.

        Of two runs that ask for a prompt at the same moment, one gets past this, where the store honours
        conditional writes (AWS, Ceph and others). Elsewhere the record is read before, and again a
        moment after: both get past it only if one takes longer than that moment from reading to writing.

        Raises:
            Claimed: If another run has written it.
            BucketNotUsable: If nothing can be written there.
            LedgerError: If it could not be written for another reason.
        """
        if not self._conditional and self._attempt(record.key) != self._attempts.get(record.key):
            raise Claimed(_CLAIMED)
        try:
            self._put_if_unchanged(record)
        except NotCurrent:
            raise Claimed(_CLAIMED) from None
        if self._conditional is False:
            time.sleep(self._timing.claim)
            if not self.holds(record):
                raise Claimed(_CLAIMED)

    def probe(self, record: Record) -> bool:
        """Do with a record all that follows payment: a bucket that refuses it is found before.

        Args:
            record: One that this ledger has just claimed; it is written again, as it is.

        Returns:
            Whether the store honours conditional writes.

        Raises:
            BucketNotUsable: If nothing can be written there, or nothing overwritten.
            LedgerError: If it could not be written for another reason.
        """
        with suppress(PreconditionFailed):
            self._put(record, known_to_exist=True, IfNoneMatch="*")
        with suppress(Overtaken):  # another run asks for it by now, and has written there
            self.write_once(record)
        return bool(self._conditional)

    def holds(self, record: Record) -> bool:
        """Whether what is stored is this very attempt.

        Raises:
            LedgerError: If that cannot be read.
        """
        return self._attempt(record.key) == record.attempt

    @property
    def _conditional(self) -> bool | None:
        return self.store.capabilities.conditional_writes

    def _put_if_unchanged(self, record: Record) -> None:
        version = self._versions.get(record.key)
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            self._put(record, **condition)
        except PreconditionFailed:
            # A write whose answer was lost is sent again by boto3, and then meets itself.
            stored = self._find(record.key)
            if stored is None or not stored.is_written(record):
                raise NotCurrent(stored) from None
            self._attempts[record.key] = record.attempt

    def _attempt(self, key: str) -> str | None:
        return record.attempt if (record := self._find(key)) else None

    def _put(self, record: Record, **condition: Any) -> None:
        stored = record.written()
        body = stored.model_dump_json(indent=1, exclude_none=True).encode()
        try:
            written = self.store.put(self._path(record.key), body, "application/json", **condition)
        except (BucketNotUsable, PreconditionFailed):
            raise
        except StorageError as error:
            raise LedgerError(f"a record could not be written: {error}") from None
        self._versions[record.key] = written.etag
        self._attempts[record.key] = record.attempt
        self.index.note(stored, written.etag)

    def _listed(self) -> Iterator[tuple[str, str]]:
        """The keys of all records, and the tags of their versions, as they are listed."""
        prefix, end = self.key("records") + "/", ".json"
        found = (each for each in self.store.keys(prefix) if each.key.endswith(end))
        return ((each.key.removeprefix(prefix).removesuffix(end), each.etag) for each in found)

    def _read_all(self, tags: Mapping[str, str]) -> dict[str, Record]:
        indexed = self.index.current(tags)
        for key, record in indexed.items():
            self._versions[key], self._attempts[key] = tags[key], record.attempt
        with ThreadPoolExecutor(ObjectStore.POOL_CONNECTIONS // 2) as pool:
            others = pool.map(self._read, [key for key in tags if key not in indexed])
            return indexed | {record.key: record for record in others}

    def _path(self, key: str) -> str:
        return self.key("records", f"{key}.json")

    def _read(self, key: str) -> Record:
        record = self.read_again(key)
        if record is None:
            uri = self.store.uri(self._path(key))
            raise LedgerError(
                f"a record could not be read, so nothing is spent: {uri} was listed, and is not there"
            )
        self.index.note(record, self._versions[key] or "", read=True)
        return record

    def _find(self, key: str) -> Record | None:
        record, tag = self._parser.find(key, self._path(key))
        if record is not None:
            self._versions[key] = tag
        return record
