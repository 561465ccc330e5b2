"""A record as it was stored, checked: whoever may write the bucket may have written it."""

from __future__ import annotations

from collections.abc import Callable

from prefect_nanobanana._common.untrusted import is_below
from prefect_nanobanana.batch._record import Record, read_record
from prefect_nanobanana.errors import LedgerError


def checked_record(
    content: bytes, key: str, path: str, images: str, uri: Callable[[str], str]
) -> Record:
    """Read a record that is there; if it cannot be used, nothing may be spent.

    Args:
        content: What is stored.
        key: The key of the prompt that it should be of.
        path: Where it is.
        images: The folder of the batch's images.
        uri: Makes the `s3://` address of a key.

    Raises:
        LedgerError: If it cannot be used.
    """
    try:
        record = read_record(content)
    except ValueError:
        raise _unusable(path, "cannot be read") from None
    if record.version != 1:
        raise LedgerError(f"the record {path} was written by a newer version: update the package")
    if record.key != key:
        raise _unusable(path, f"is that of another prompt, {record.key[:40]!r}")
    for image in record.images.values():
        if not is_below(image.key, images) or image.uri != uri(image.key):
            raise _unusable(path, "names an image outside of the batch's folder")
    return record


def _unusable(path: str, why: str) -> LedgerError:
    return LedgerError(
        f"the record {path} {why}, so nothing is spent: correct it, or remove it if its prompt may be "
        "paid for again"
    )
