"""A small file of lines in a bucket that several writers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.models import Line, read_lines, to_lines
from prefect_nanobanana.s3._errors import PreconditionFailed
from prefect_nanobanana.s3._store import ObjectStore

CONTENT_TYPE = "application/x-ndjson"
_TRIES = 5
L = TypeVar("L", bound=Line)


class LineFile(Generic[L]):
    """Reads and writes values that stand one to a line.

    Args:
        store: Where the file is.
        key: Its key.
        kind: What stands in a line.
        cure: What to do with a line that cannot be read, for errors.
    """

    def __init__(self, store: ObjectStore, key: str, kind: type[L], cure: str) -> None:
        self._store = store
        self._key = key
        self._kind = kind
        self._cure = cure

    @property
    def uri(self) -> str:
        """Where it is."""
        return self._store.uri(self._key)

    def read(self) -> list[L]:
        """Read what there is; nothing if there is no file.

        Raises:
            InvalidInput: If a line cannot be read; names it.
            StorageError: If the store cannot be used.
        """
        return self._read()[0]

    def update(self, change: Callable[[list[L]], Iterable[L]]) -> list[L]:
        """Write it anew, of what it holds.

        Two writers at once do not lose each other's lines, where the store honours conditional writes.

        Args:
            change: Makes the new lines of those that there are; is called again if another writer was
                faster. If they are the same, nothing is written.

        Returns:
            The new lines.

        Raises:
            InvalidInput: If what is there cannot be read.
            StorageError: If they cannot be written.
        """
        for _ in range(_TRIES):
            known, version = self._read()
            new = list(change(known))
            if new == known:
                return known
            condition: dict[str, Any] = {"IfMatch": version} if version else {}
            if version is None:
                condition = {"IfNoneMatch": "*"}
            try:
                self._store.put(self._key, to_lines(new), CONTENT_TYPE, **condition)
                return new
            except PreconditionFailed:
                continue
        raise StorageError(f"{self.uri} is written by others all the time: try again")

    def _read(self) -> tuple[list[L], str | None]:
        """The lines, and the file's version: None if there is none, empty if the store says none."""
        found = self._store.find(self._key)
        if found is None:
            return [], None
        content, version = found
        return [line for _, line in read_lines(self._kind, content, self.uri, self._cure)], version
