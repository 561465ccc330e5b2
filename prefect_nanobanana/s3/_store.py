"""A bucket block, opened: objects in and out, and errors by what they mean."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, FlexibleChecksumError

from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.s3._boto import POOL_CONNECTIONS
from prefect_nanobanana.s3._capabilities import Capabilities, condition_failed
from prefect_nanobanana.s3._connection import FAILURES, Connection
from prefect_nanobanana.s3._errors import (
    CUT,
    DAMAGED,
    ObjectCorrupted,
    PreconditionFailed,
    StoreUnavailable,
    answer_of,
    code_of,
    status_of,
    text,
)
from prefect_nanobanana.s3._locations import is_aws, object_url, presigned
from prefect_nanobanana.s3._marks import Marks
from prefect_nanobanana.s3._objects import ListedObject, StoredObject, few_keys, pages
from prefect_nanobanana.s3._uris import Uris
from prefect_nanobanana.storage_options import Kind, StorageOptions

if TYPE_CHECKING:
    from prefect_aws import S3Bucket

SEND_TRIES = 3
SEND_AGAIN_SECONDS = 0.2
READ_TRIES = 5
READ_AGAIN_SECONDS = 0.1
_CHUNK_BYTES = 64 * 1024
_ABSENT = ("NoSuchKey", "404")


class ObjectStore:
    """A bucket block, opened; safe to use from many threads.

    Args:
        block: The `S3Bucket` block of prefect-aws.
        options: How objects are stored, beyond what the bucket does by itself.
        capabilities: What is known of the store already.
    """

    POOL_CONNECTIONS = POOL_CONNECTIONS
    """Requests that run at once: more wait for a connection."""

    def __init__(
        self,
        block: S3Bucket,
        options: StorageOptions | None = None,
        capabilities: Capabilities | None = None,
    ) -> None:
        self.name = block.bucket_name
        self.folder = block.bucket_folder.strip("/")
        self.options = options or StorageOptions()
        self._connection = Connection(block, capabilities or Capabilities())

    @property
    def uris(self) -> Uris:
        """What can be done with `s3://` addresses, of whatever bucket, with the block's credentials."""
        return Uris(self._connection)

    @property
    def marks(self) -> Marks:
        """What can be done with objects that are there: copies, tags, addresses to write to."""
        return Marks(self._connection, self.name, self.options)

    def __repr__(self) -> str:
        return f"ObjectStore({self.name!r}, {self.folder!r})"

    @property
    def capabilities(self) -> Capabilities:
        """What is known of the store so far."""
        return self._connection.capabilities

    @property
    def checks_uploads(self) -> bool:
        """Whether the store refuses what does not fit its checksum, so that nothing need be compared.

        AWS does (its documentation); of others only the storage options know.
        """
        verify = self.options.verify
        aws = verify == "auto" and is_aws(self._connection.client.meta.endpoint_url)
        return (aws or verify == "store") and self._connection.sends_checksums

    def key(self, *parts: str) -> str:
        """Join parts below the bucket's folder."""
        return "/".join(part for part in (self.folder, *parts) if part)

    def uri(self, key: str) -> str:
        """The `s3://` address of a key."""
        return f"s3://{self.name}/{key}"

    def address(self, key: str) -> str:
        """Where a key is; those of other stores differ, though bucket and key be the same."""
        endpoint = str(self._connection.client.meta.endpoint_url)
        return f"{sha256(endpoint.encode()).hexdigest()[:8]}:{self.uri(key)}"

    def link(self, key: str) -> str | None:
        """Where a person can open an object, as the options say; nothing if there is no such address."""
        if self.options.links == "none":
            return None
        make = presigned if self.options.links == "signed" else object_url
        try:
            return make(self._connection.client, self.name, key)
        except (*FAILURES, StorageError):
            return None

    def find(self, key: str) -> tuple[bytes, str] | None:
        """Read an object.

        Returns:
            Its bytes, and the tag that tells its versions apart (empty if the store says none); nothing
            if it is not there.

        Raises:
            StorageError: If it cannot be read.
        """
        for left in reversed(range(READ_TRIES)):
            try:
                answer = self._connection.call("get_object", Key=key)
                return answer["Body"].read(), answer.get("ETag", "")
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    return None
                raise self._connection.problem(error, key) from None
            except CUT as error:
                if not left:
                    raise self._cut(key, error) from None
                time.sleep(READ_AGAIN_SECONDS)
            except FAILURES as error:
                raise self._connection.problem(error, key) from None
        raise AssertionError("the last try has returned or raised")

    def read(self, key: str) -> Iterator[bytes]:
        """Read an object in pieces.

        Raises:
            ObjectCorrupted: If it does not fit the checksum that the store keeps of it.
            StoreUnavailable: If it is not there (yet).
            StorageError: If it cannot be read.
        """
        try:
            yield from self._connection.call("get_object", Key=key)["Body"].iter_chunks(_CHUNK_BYTES)
        except FlexibleChecksumError:
            raise ObjectCorrupted(f"{self.uri(key)} does not fit its checksum") from None
        except AttributeError as error:  # see CUT
            raise self._cut(key, error) from None
        except FAILURES as error:
            if isinstance(error, ClientError) and code_of(error) in _ABSENT:
                raise StoreUnavailable(f"{self.uri(key)} is not to be seen yet") from None
            raise self._connection.problem(error, key) from None

    def head(self, key: str) -> StoredObject | None:
        """Ask what the store says of what is at a key; nothing if nothing is there.

        Raises:
            StorageError: If that cannot be had.
        """
        try:
            # A store that knows checksums says the object's if it is asked to.
            return StoredObject.of(self._connection.call("head_object", Key=key, ChecksumMode="ENABLED"))
        except FAILURES as error:
            if isinstance(error, ClientError) and status_of(error) == 404:
                return None
            raise self._connection.problem(error, key) from None

    def put(
        self,
        key: str,
        body: Any,
        content_type: str,
        kind: Kind = "record",
        *,
        known_to_exist: bool = False,
        **options: Any,
    ) -> StoredObject:
        """Write an object; returns what the store says of it.

        Args:
            key: Where.
            body: Bytes, or a file.
            content_type: As `image/png`.
            kind: What it is, as not all storage options concern everything.
            known_to_exist: Whether an object is there for sure: then what `IfNoneMatch` is answered
                tells whether the store honours conditional writes, and `capabilities` say so.
            **options: Of `put_object`; with `IfNoneMatch` or `IfMatch` only where the object is not
                there, or has not changed. A store that says it does not know these writes plainly.

        Raises:
            PreconditionFailed: If the condition did not hold.
            BucketNotUsable: If nothing can be written there.
            StoreRefuses: If the store is full, or takes nothing so large.
            StorageError: If this could not be written.
        """
        if isinstance(body, bytes) and "ChecksumSHA256" not in options:
            # Named, it is a plain header. Over TLS boto3 sends a trailer: Ceph and rclone answer 411.
            options["ChecksumSHA256"] = b64encode(sha256(body).digest()).decode()
        if "IfMatch" in options:
            options["IfMatch"] = self.capabilities.if_match(options["IfMatch"])
        request = {"Key": key, "Body": body, "ContentType": content_type, **options}
        try:
            stored = self._send(kind, request)
        except ClientError as error:
            if not condition_failed(error, request):
                raise self._connection.problem(error, key) from None
            if "IfNoneMatch" in request:
                self._connection.learn(conditional_writes=True)
            elif self._wants_bare_etags(key, request["IfMatch"]):
                return self.put(key, body, content_type, kind, **options)
            raise PreconditionFailed(
                f"{self.uri(key)} is there already, or has changed ({answer_of(error)})"
            ) from None
        except FAILURES as error:
            raise self._connection.problem(error, key) from None
        if known_to_exist and "IfNoneMatch" in request:
            self._connection.learn(conditional_writes=False)
        if stored.etag or kind != "record":
            return stored
        # Who writes a record needs its version for the next time; some stores say it only if asked.
        stored = self.head(key) or stored
        if not stored.etag:
            self._connection.learn(conditional_writes=False)
        return stored

    def remove(self, key: str) -> None:
        """Remove an object, if it is there; raises `StorageError` if the store does not let us."""
        try:
            self._connection.call("delete_object", Key=key)
        except FAILURES as error:
            raise self._connection.problem(error, key) from None

    def keys(self, prefix: str) -> Iterator[ListedObject]:
        """List what begins with a prefix.

        Raises:
            BucketNotUsable: If the bucket cannot be listed.
            StorageError: If listing failed for another reason.
        """
        for page in pages(self._connection, prefix):
            for item in page.get("Contents", []):
                yield ListedObject.of(item, prefix)

    def few(self, prefix: str) -> set[str] | None:
        """The keys that begin with a prefix, if one request finds them all."""
        return few_keys(self._connection, prefix)

    def _send(self, kind: Kind, request: dict[str, Any]) -> StoredObject:
        # Whoever copies an image sends it again, and for longer.
        for left in reversed(range(1 if kind == "image" else SEND_TRIES)):
            try:
                answer = self._connection.call("put_object", **self.options.for_put(kind), **request)
                return StoredObject.of(answer)
            except ClientError as error:
                if not left or code_of(error) not in DAMAGED:
                    raise
                time.sleep(SEND_AGAIN_SECONDS)
        raise AssertionError("the last try has returned or raised")

    def _wants_bare_etags(self, key: str, version: str | None) -> bool:
        """Whether a condition failed though the object has that very tag."""
        if self.capabilities.bare_etags or not version:
            return False
        there = self.head(key)
        if there is None or there.etag.removeprefix("W/") != version:
            return False
        self._connection.learn(bare_etags=True)
        return True

    def _cut(self, key: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"{self.uri(key)} cannot be read: its body is cut ({text(error)})")
