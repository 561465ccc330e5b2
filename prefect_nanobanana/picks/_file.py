"""The decisions on a batch's images in S3: `picks.jsonl`, a line per image that is decided on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.models import read_lines, to_lines
from prefect_nanobanana.picks._pick import ImageId, Pick
from prefect_nanobanana.s3 import ObjectStore, PreconditionFailed

PICKS = "picks.jsonl"
_TRIES = 5


class Picks:
    """Reads and writes the decisions on one batch.

    Args:
        store: Where the batch lies.
        batch: Its name.
    """

    def __init__(self, store: ObjectStore, batch: str) -> None:
        self._store = store
        self._key = store.key(batch, PICKS)

    @property
    def uri(self) -> str:
        """Where they are."""
        return self._store.uri(self._key)

    def read(self) -> dict[ImageId, Pick]:
        """Read them.

        Returns:
            The last decision on each image that there is one on.

        Raises:
            InvalidInput: If the file cannot be read; names the line.
            StorageError: If the store cannot be used.
        """
        return self._read()[0]

    def add(self, picks: Iterable[Pick]) -> dict[ImageId, Pick]:
        """Add decisions; a new one on an image takes the place of the one before.

        Two reviews at once do not lose each other's, where the store honours conditional writes.

        Returns:
            All decisions, with these.

        Raises:
            InvalidInput: If what is there cannot be read.
            StorageError: If they cannot be written.
        """
        new = {pick.image: pick for pick in picks}
        for _ in range(_TRIES):
            known, version = self._read()
            whole = {**known, **new}
            if whole == known:
                return known
            condition: dict[str, Any] = {"IfMatch": version} if version else {}
            if version is None:
                condition = {"IfNoneMatch": "*"}
            try:
                content = to_lines(whole.values())
                self._store.put(self._key, content, "application/x-ndjson", **condition)
                return whole
            except PreconditionFailed:
                continue
        raise StorageError(f"{self.uri} is written by others all the time: try again")

    def _read(self) -> tuple[dict[ImageId, Pick], str | None]:
        """The decisions, and the version of the file: None if there is none, empty if none is said."""
        found = self._store.find(self._key)
        if found is None:
            return {}, None
        content, version = found
        picks = read_lines(Pick, content, self.uri, "correct it, or remove the line")
        return {pick.image: pick for _, pick in picks}, version
