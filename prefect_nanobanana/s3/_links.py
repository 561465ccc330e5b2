"""Where people can open an object."""

from __future__ import annotations

from typing import Literal

from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.s3._connection import FAILURES, Connection
from prefect_nanobanana.s3._locations import object_url

SIGNED_SECONDS = 7 * 24 * 3600
"""The longest that S3 allows (its documentation)."""


def link_to(
    connection: Connection, links: Literal["plain", "signed", "none"], bucket: str, key: str
) -> str | None:
    """An address of an object; see `ObjectStore.link`."""
    if links == "none":
        return None
    try:
        if links == "signed":
            return connection.client.generate_presigned_url(
                "get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=SIGNED_SECONDS
            )
        meta = connection.client.meta
    except (*FAILURES, StorageError):
        return None
    return object_url(meta.endpoint_url, meta.region_name, bucket, key)
