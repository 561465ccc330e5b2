"""The files of a batch's manifest in S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.manifest import _jsonl, _parquet
from prefect_nanobanana.manifest._besides import Besides
from prefect_nanobanana.manifest._columns import IMAGE_COLUMNS, PROMPT_COLUMNS
from prefect_nanobanana.manifest._rows import Entry, Row, image_rows, prompt_rows
from prefect_nanobanana.s3 import ObjectStore

MANIFEST = "manifest.jsonl"
IMAGES = "images.jsonl"
KEPT_ROWS = 2_000
"""Of more the rows are made for each file anew, as they would take much memory."""


class ManifestFiles:
    """Writes the files of a manifest: as JSON, and as Parquet if pyarrow is installed.

    Args:
        store: Where the batch lies.
        batch: Its name.
        entries: What they are to say: one per prompt, in the order of the list.
        besides: What is known of the images besides.
    """

    def __init__(
        self,
        store: ObjectStore,
        batch: str,
        entries: Sequence[Entry],
        besides: Besides | None = None,
    ) -> None:
        self._store = store
        self._batch = batch
        self._entries = entries
        self._besides = besides
        self._rows: list[Row] | None = None
        self._tables = {
            "prompts.parquet": (self._prompts, PROMPT_COLUMNS),
            "images.parquet": (self._images, IMAGE_COLUMNS),
        }

    @staticmethod
    def prepare() -> None:
        """Import what writing needs, which takes a while, before it is needed."""
        _parquet.can_write()

    def writers(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the name of each file, and what writes it: each raises `StorageError` if it cannot."""
        yield IMAGES, lambda: self._put(IMAGES, _jsonl.jsonl(self._images()), _jsonl.CONTENT_TYPE)
        write = self._put_table if _parquet.can_write() else self._remove
        for name in self._tables:
            yield name, partial(write, name)
        # Last, as what it says shows that all of them are written.
        yield MANIFEST, lambda: self._put(MANIFEST, _jsonl.jsonl(self._prompts()), _jsonl.CONTENT_TYPE)

    def _prompts(self) -> Iterator[Row]:
        if len(self._entries) > KEPT_ROWS:
            return prompt_rows(self._batch, self._entries, self._besides)
        if self._rows is None:
            self._rows = list(prompt_rows(self._batch, self._entries, self._besides))
        return iter(self._rows)

    def _images(self) -> Iterator[Row]:
        return image_rows(self._prompts())

    def _put_table(self, name: str) -> None:
        rows, columns = self._tables[name]
        try:
            self._put(name, _parquet.parquet(rows(), columns), _parquet.CONTENT_TYPE)
        except Exception:
            with suppress(StorageError):
                self._remove(name)  # what an earlier run has written is out of date
            raise

    def _remove(self, name: str) -> None:
        """Remove the table of an earlier run, which would go on saying what is not so any more."""
        # Removing what is not there would leave a mark in buckets that keep versions.
        if self._store.head(self._key(name)) is not None:
            self._store.remove(self._key(name))

    def _put(self, name: str, content: bytes, content_type: str) -> None:
        self._store.put(self._key(name), content, content_type)

    def _key(self, name: str) -> str:
        return self._store.key(self._batch, name)
