"""What a store says of an object, and of many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

from botocore.exceptions import ClientError

from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.s3._connection import FAILURES, Connection
from prefect_nanobanana.s3._errors import code_of, status_of


@dataclass(frozen=True)
class StoredObject:
    """What a store says of an object. All of it may be left out by some store.

    Attributes:
        etag: The tag that tells its versions apart, as the store writes it; empty if it says none.
        size: In bytes.
        sha256: Its checksum as S3 writes it, if the store keeps it.
        encrypted_by_kms: Whether it is encrypted with a key of its own: its tag is no MD5 then.
        metadata: User metadata, by names in lower case.
    """

    etag: str = ""
    size: int | None = None
    sha256: str = ""
    encrypted_by_kms: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> StoredObject:
        """Read boto3's answer to a put or a HEAD."""
        metadata: Mapping[str, str] = answer.get("Metadata") or {}
        return cls(
            etag=answer.get("ETag", ""),
            size=answer.get("ContentLength"),
            sha256=answer.get("ChecksumSHA256", ""),
            encrypted_by_kms="aws:kms" in str(answer.get("ServerSideEncryption")),
            metadata={name.lower(): value for name, value in metadata.items()},
        )

    @property
    def tag(self) -> str:
        """The tag without its quotes; of most stores it is the MD5."""
        return self.etag.removeprefix("W/").strip('"')


class ListedObject(NamedTuple):
    """What a list says of an object.

    Attributes:
        key: Its key.
        written: When it was written.
        etag: The tag that tells its versions apart; empty if the store lists none.
        size: In bytes.
    """

    key: str
    written: datetime
    etag: str
    size: int

    @classmethod
    def of(cls, item: Mapping[str, Any], prefix: str) -> ListedObject:
        """Read an item of boto3's list."""
        written = item.get("LastModified") or datetime.now(UTC)
        tag = str(item.get("ETag") or "").strip('"')  # some stores list it without its quotes
        size = int(item.get("Size") or 0)
        return cls(key_of(item, prefix), written, f'"{tag}"' if tag else "", size)


def key_of(item: Mapping[str, Any], prefix: str) -> str:
    """The key of what is listed; some stores list keys in escapes without saying so."""
    key: str = item["Key"]
    return key if key.startswith(prefix) else unquote(key)


def pages(connection: Connection, prefix: str) -> Iterator[Mapping[str, Any]]:
    """List what begins with a prefix, page by page; by version 1 where a store does not know version 2.

    Raises:
        BucketNotUsable: If the bucket cannot be listed.
        StorageError: If listing failed for another reason, or breaks off.
    """
    operation, seen = "list_objects_v2", {""}
    place: dict[str, str] = {}
    while True:
        try:
            page: Mapping[str, Any] = connection.call(operation, Prefix=prefix, **place)
        except ClientError as error:
            if operation == "list_objects" or not _does_not_know(error):
                raise connection.problem(error) from None
            operation = "list_objects"
            continue
        except FAILURES as error:
            raise connection.problem(error) from None
        yield page
        if not page.get("IsTruncated"):
            return
        if token := page.get("NextContinuationToken"):
            place = {"ContinuationToken": token}
        else:  # what knows version 1 alone goes on behind a key, which it need not name
            last = [item["Key"] for item in page.get("Contents", [])[-1:]]
            token = page.get("NextMarker") or "".join(last)
            operation, place = "list_objects", {"Marker": token}
        if token in seen:
            raise StorageError(f"listing {prefix!r} breaks off: the store does not say how it goes on")
        seen.add(token)


def few_keys(connection: Connection, prefix: str) -> set[str] | None:
    """The keys that begin with a prefix, if one request finds them all."""
    try:
        page = next(pages(connection, prefix))
    except StorageError:
        return None
    found = {key_of(item, prefix) for item in page.get("Contents", [])}
    return None if page.get("IsTruncated") else found


def _does_not_know(error: ClientError) -> bool:
    """Whether a store says that it does not know version 2 of lists."""
    unknown = code_of(error) in ("NotImplemented", "MethodNotAllowed") or status_of(error) in (405, 501)
    return unknown or "list-type" in str(error.response.get("Error"))
