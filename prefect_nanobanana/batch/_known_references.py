"""What private references held when they were read last; the batch remembers it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from prefect_nanobanana._common.references import absolute_path, is_path
from prefect_nanobanana.s3 import ObjectStore, PreconditionFailed

_NAME = "known.json"
_TRIES = 5


class Known(BaseModel):
    """What was found at an address.

    Attributes:
        tag: The version of an object in S3; empty if the store says none.
        sha256: The hash of its bytes, in hexadecimal.
        extension: As `png`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    tag: str = ""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    extension: str = Field(pattern="^[a-z0-9]{1,8}$")


_ALL = TypeAdapter(dict[str, Known])


class KnownReferences:
    """What is remembered of a batch's references, by the names that `remembered_name` gives them.

    Args:
        store: Where the batch is.
        folder: The key of its folder for references.
    """

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._store = store
        self._key = f"{folder}/{_NAME}"

    def read(self) -> dict[str, Known]:
        """Read all of it.

        Raises:
            StorageError: If the store cannot be read.
        """
        return self._read()[0]

    def add(self, known: Mapping[str, Known]) -> None:
        """Write more, beside what other runs of the batch have written meanwhile.

        Raises:
            StorageError: If it cannot be written.
        """
        for left in reversed(range(_TRIES)):
            others, version = self._read()
            condition = "IfMatch" if version else "IfNoneMatch"
            body = _ALL.dump_json({**others, **known}, indent=1)
            options: dict[str, Any] = {condition: version or "*"}
            try:
                self._store.put(self._key, body, "application/json", "record", **options)
            except PreconditionFailed:
                if not left:
                    raise
            else:
                return

    def _read(self) -> tuple[dict[str, Known], str]:
        found = self._store.find(self._key)
        if found is None:
            return {}, ""
        try:
            return _ALL.validate_json(found[0]), found[1]
        except (ValidationError, RecursionError):  # all are read anew then
            return {}, found[1]


def remembered_name(url: str) -> str:
    """What a reference is remembered by: a local one by its whole path, as folders differ."""
    if not is_path(url):
        return url
    return absolute_path(url)
