"""A bucket block, opened: objects in and out."""

from prefect_nanobanana.s3._errors import ObjectCorrupted, PreconditionFailed, StoreUnavailable
from prefect_nanobanana.s3._line_file import LineFile
from prefect_nanobanana.s3._objects import StoredObject
from prefect_nanobanana.s3._store import ObjectStore

__all__ = [
    "LineFile",
    "ObjectCorrupted",
    "ObjectStore",
    "PreconditionFailed",
    "StoreUnavailable",
    "StoredObject",
]
