"""Reads records as input from strangers: whoever may write the bucket may have written them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from prefect_nanobanana._common.text import shortened, visible
from prefect_nanobanana._common.untrusted import is_below, is_preview
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.errors import BucketNotUsable, InvalidInput, LedgerError, StorageError
from prefect_nanobanana.retention import RemovedImage, RemovedImages, removal_of
from prefect_nanobanana.s3 import ObjectStore

_NO_SIZE = 2**53
_IMAGE = re.compile(r"s3://[^/]+/(?:.+/)?images/[^/]+")


class RecordParser:
    """Reads the records of one batch.

    Args:
        store: Where the batch is.
        batch: Its name.
    """

    def __init__(self, store: ObjectStore, batch: str) -> None:
        self._store = store
        self._batch = batch
        self._images = store.key(batch, "images")

    def find(self, key: str, path: str) -> tuple[Record | None, str]:
        """Read a record from the store.

        Args:
            key: The prompt's key.
            path: Where the record is.

        Returns:
            The record and the tag of its version; None if it is not there.

        Raises:
            BucketNotUsable: If the bucket does not let itself be read.
            LedgerError: If it cannot be read, or used.
        """
        try:
            found = self._store.find(path)
        except BucketNotUsable:
            raise
        except StorageError as error:
            raise LedgerError(f"a record could not be read, so nothing is spent: {error}") from None
        return (None, "") if found is None else (self.parse(key, path, found[0]), found[1])

    def parse(self, key: str, path: str, content: bytes) -> Record:
        """Read a record.

        Args:
            key: The prompt's key.
            path: Where the record is.
            content: What is there.

        Raises:
            LedgerError: If it cannot be used.
        """
        try:
            record = read_record(content)
        except ValueError:
            raise _unusable(path, "cannot be read") from None
        if record.version != 1:
            raise LedgerError(f"the record {path} was written by a newer version: update the package")
        if self.problem(key, record):
            record = self._moved(path, record)
        if problem := self.problem(key, record):
            raise _unusable(path, problem)
        return record

    def problem(self, key: str, record: Record) -> str | None:
        """Why a record cannot be that of a prompt, if it cannot."""
        if record.key != key:
            return f"is that of another prompt, {record.key[:40]!r}"
        for image in record.images.values():
            if not is_below(image.key, self._images) or image.uri != self._store.uri(image.key):
                return "names an image outside of the batch's folder"
        return None

    def _moved(self, path: str, record: Record) -> Record:
        """The same with the images' addresses here, if the batch was copied from elsewhere with them."""
        images = dict(record.images)
        for place, image in record.images.items():
            key = f"{self._images}/{image.key.rpartition('/')[2]}"
            uri = self._store.uri(key)
            is_ours = _IMAGE.fullmatch(image.uri) and image.uri.endswith(f"/{image.key}")
            if image.uri == uri or not is_ours or not is_below(key, self._images):
                continue
            here = image.model_copy(update={"key": key, "uri": uri})
            try:
                found = self._store.head(key)
                gone = found is None and removal_of(here, self._removed) is not None
            except (StorageError, InvalidInput) as error:
                raise LedgerError(f"a record could not be read, so nothing is spent: {error}") from None
            if not gone and (found is None or found.size != image.size_bytes):
                was = visible(shortened(image.uri))
                raise LedgerError(
                    f"the record {path} names an image outside of the batch's folder, {was}, and {uri} "
                    "is not the same, so nothing is spent: copy the images, too, if the batch was "
                    "copied here"
                )
            images[place] = here
        return record.model_copy(update={"images": images})

    @cached_property
    def _removed(self) -> Mapping[str, RemovedImage]:
        """What of the batch was moved away or deleted, and need not be here."""
        return RemovedImages(self._store, self._batch).read()


def _unusable(path: str, why: str) -> LedgerError:
    """The error for a record that is there and cannot be used."""
    return LedgerError(
        f"the record {path} {why}, so nothing is spent: correct it, or remove it if its prompt may be "
        "paid for again"
    )


def read_record(content: bytes) -> Record:
    """Read a record as input from strangers: whoever may write the bucket may have written it.

    Returns:
        The record, without small pictures that are none.

    Raises:
        ValueError: If it is no record.
    """
    try:
        record = Record.model_validate_json(content)
    except RecursionError:
        raise ValueError("too deep") from None
    return checked(record)


def checked(record: Record) -> Record:
    """The same for a record that was read otherwise; see `read_record`."""
    if any(
        not 0 <= n < _NO_SIZE for i in record.images.values() for n in (i.size_bytes, i.width, i.height)
    ):
        raise ValueError("no size")
    whole = {n: text for n, text in record.thumbnails.items() if not text or is_preview(text)}
    return record.model_copy(update={"thumbnails": whole})
