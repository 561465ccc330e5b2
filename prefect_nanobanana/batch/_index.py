"""An index of a batch's records, so that a run of a finished batch need not read each of them.

It is one object, `records.jsonl`, beside the folder `records/`: a line per record of a prompt that is
done with. The records remain the truth: a line counts only while the list of the records shows the very
version that it was made of. What is missing, damaged or old in it is read from its record, as if there
were none.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

from pydantic import BaseModel

from prefect_nanobanana.batch._parser import RecordParser, checked
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.s3 import ObjectStore

WORTH_RECORDS = 20
"""So few records are read one by one: the index costs two requests itself."""
SAVE_EVERY = 1_000
"""After so many more prompts that are done with it is written, should the run be killed."""
THUMBNAIL_BYTES = 16_000_000
"""Small pictures in it at most: as many as the gallery page shows."""
_KEY = re.compile(rb'\{"key":"([0-9a-f]{24})"')
_DONE = ("stored", "warning", "failed", "lost")


class _Line(BaseModel):
    """A line: a record, and the tag of the version that it was made of."""

    key: str
    tag: str
    record: Record


class RecordIndex:
    """The index of one batch; safe to use from many threads.

    Args:
        store: Where it is.
        path: Its key.
        parser: Says which records cannot be those of the batch.
    """

    def __init__(self, store: ObjectStore, path: str, parser: RecordParser) -> None:
        self._store = store
        self._path = path
        self._parser = parser
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._lines: dict[str, bytes] = {}
        self._loaded = False
        self._used: set[str] = set()
        self._unsaved = 0
        self._room = THUMBNAIL_BYTES

    def __reduce__(self) -> tuple[type[RecordIndex], tuple[ObjectStore, str, RecordParser]]:
        return type(self), (self._store, self._path, self._parser)  # another process writes no index

    def current(self, tags: Mapping[str, str]) -> dict[str, Record]:
        """The records that need not be read.

        Args:
            tags: The records that there are, by key, with the tags of their versions.

        Returns:
            Those that the index has in that version, by key; some without their small pictures.
        """
        if len(tags) < WORTH_RECORDS:
            return {}
        lines = self._load()
        found = {}
        for key, tag in tags.items():
            line = lines.get(key)
            record = _current(line, tag) if line and tag else None
            if record is not None and self._parser.problem(key, record) is None:
                found[key] = record
        with self._lock:
            self._used |= found.keys()
        return found

    def holds(self, key: str) -> bool:
        """Whether a record was taken from the index, and may lack its small pictures."""
        return key in self._used

    def note(self, record: Record, tag: str, *, read: bool = False) -> None:
        """Take note of a record as it is now, and write the index if that is due.

        Args:
            record: The record as it is stored.
            tag: Of its version; empty if the store says none.
            read: Whether it was only read, so that nothing is due.
        """
        done = record.state in _DONE and not record.safe_to_send and bool(tag)
        with self._lock:
            self._used.discard(record.key)
            if not done:
                self._lines.pop(record.key, None)
                return
            self._lines[record.key] = self._line(record, tag)
            self._unsaved += 1
            due = not read and self._unsaved % SAVE_EVERY == 0
        if due:
            self.save()

    def save(self) -> bool:
        """Write the index, if there is news; whether it is there."""
        with self._saving:
            with self._lock:
                known, unsaved = len(self._lines), self._unsaved
            if not unsaved or known < WORTH_RECORDS:
                return True
            lines = self._load()  # with those of other lists of the batch
            try:
                self._store.put(self._path, b"\n".join(lines.values()), "application/x-ndjson")
            except StorageError:
                return False
            with self._lock:
                self._unsaved -= unsaved
            return True

    def _line(self, record: Record, tag: str) -> bytes:
        size = sum(map(len, record.thumbnails.values()))
        if size > self._room:
            record = record.model_copy(update={"thumbnails": {}})
        else:
            self._room -= size
        line = _Line(key=record.key, tag=tag, record=record)
        return line.model_dump_json(exclude_none=True).encode()

    def _load(self) -> dict[str, bytes]:
        """The lines by key: those of the object, and what this run knows better."""
        with self._lock:
            if self._loaded:
                return dict(self._lines)
            self._loaded = True
        try:
            found = self._store.find(self._path)
        except StorageError:  # the records are read one by one then
            found = None
        lines = found[0].splitlines() if found else []
        with self._lock:
            stored = {match[1].decode(): line for line in lines if (match := _KEY.match(line))}
            self._lines = stored | self._lines
            return dict(self._lines)


def _current(line: bytes, tag: str) -> Record | None:
    """The record of a line, if it is of that version."""
    try:
        found = _Line.model_validate_json(line)
        return checked(found.record) if found.tag == tag else None
    except (ValueError, RecursionError):
        return None
