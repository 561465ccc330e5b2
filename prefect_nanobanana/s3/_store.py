"""A bucket block, opened: objects in and out, and errors by what they mean.

Only this module, its siblings `_s3_client` and `_s3_errors`, and `storage` know boto3.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ResponseStreamingError,
)

from prefect_nanobanana.errors import InvalidInput, StorageError
from prefect_nanobanana.s3._boto import client_of, session_of, signed_wrongly
from prefect_nanobanana.s3._errors import (
    DAMAGED,
    ObjectCorrupted,
    PreconditionFailed,
    SignedWrongly,
    StoreUnavailable,
    Unfit,
    code_of,
    problem,
    status_of,
)
from prefect_nanobanana.storage_options import Kind, StorageOptions

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import PutObjectOutputTypeDef
    from prefect_aws import S3Bucket

SIGNED_SECONDS = 7 * 24 * 3600
"""The longest that S3 allows (its documentation)."""
SEND_TRIES = 3
SEND_AGAIN_SECONDS = 0.2
READ_TRIES = 5
READ_AGAIN_SECONDS = 0.1
_CHUNK_BYTES = 64 * 1024

_CUT = (ResponseStreamingError, IncompleteReadError, AttributeError)
"""boto3 does not ask again for a body that is cut, as of an object that is replaced while it is read.
AttributeError: botocore itself was seen to raise it then (rclone, two runs writing one record)."""


class ObjectStore:
    """A bucket block, opened.

    Args:
        block: The `S3Bucket` block of prefect-aws.
        options: How objects are stored, beyond what the bucket does by itself.
    """

    def __init__(self, block: S3Bucket, options: StorageOptions | None = None) -> None:
        self.name = block.bucket_name
        self.folder = block.bucket_folder.strip("/")
        self.conditional: bool | None = None
        """Whether the store honours conditional writes; None until that is known."""
        self.checks: bool | None = None
        """Whether the store refuses what does not fit its signature; None until that is known."""
        self._block = block
        self._client: tuple[int, S3Client] | None = None
        self._options = options or StorageOptions()

    def __repr__(self) -> str:
        return f"Bucket({self.name!r}, {self.folder!r})"

    @property
    def client(self) -> S3Client:
        """The boto3 client, which all buckets of a credentials block share.

        Raises:
            BucketNotUsable: If no client can be made of the block.
        """
        credentials = self._block.credentials
        session = session_of(credentials)
        if self._client is None or self._client[0] != session:
            try:
                self._client = session, client_of(credentials, session)
            except (BotoCoreError, ClientError, ValueError) as error:
                raise self.problem(error) from None
        return self._client[1]

    def key(self, *parts: str) -> str:
        """Join parts below the bucket's folder."""
        return "/".join(part for part in (self.folder, *parts) if part)

    def uri(self, key: str) -> str:
        """The `s3://` address of a key."""
        return f"s3://{self.name}/{key}"

    def link(self, key: str) -> str | None:
        """Where a person can open an object, as the options say; nothing if there is no such address."""
        links = self._options.links
        if links == "none":
            return None
        try:
            if links == "signed":
                return self.client.generate_presigned_url(
                    "get_object", {"Bucket": self.name, "Key": key}, ExpiresIn=SIGNED_SECONDS
                )
            meta = self.client.meta
        except (BotoCoreError, ClientError, StorageError):
            return None
        if str(urlsplit(meta.endpoint_url).hostname).endswith(".amazonaws.com"):
            query = urlencode({"region": meta.region_name, "prefix": key})
            return f"https://console.aws.amazon.com/s3/object/{self.name}?{query}"
        return f"{meta.endpoint_url.rstrip('/')}/{self.name}/{quote(key)}"

    def find(self, key: str) -> tuple[bytes, str] | None:
        """Read an object.

        Returns:
            Its bytes, and the tag that tells its versions apart; nothing if it is not there.

        Raises:
            StorageError: If it cannot be read.
        """
        for left in reversed(range(READ_TRIES)):
            try:
                answer = self.client.get_object(Bucket=self.name, Key=key)
                return answer["Body"].read(), answer["ETag"]
            except ClientError as error:
                if code_of(error) in ("NoSuchKey", "404"):
                    return None
                raise self.problem(error, key) from None
            except _CUT as error:
                if not left:
                    raise StoreUnavailable(
                        f"{self.uri(key)} cannot be read: its body is cut ({error})"
                    ) from None
                time.sleep(READ_AGAIN_SECONDS)
            except BotoCoreError as error:
                raise self.problem(error, key) from None
        raise AssertionError("the last try has returned or raised")

    def read(self, key: str) -> Iterator[bytes]:
        """Read an object in pieces.

        Raises:
            ObjectCorrupted: If it does not fit the checksum that the store keeps of it.
            StorageError: If it cannot be read.
        """
        try:
            body = self.client.get_object(Bucket=self.name, Key=key)["Body"]
            yield from body.iter_chunks(_CHUNK_BYTES)
        except FlexibleChecksumError:
            raise ObjectCorrupted(f"{self.uri(key)} does not fit its checksum") from None
        except AttributeError as error:  # see _CUT
            raise StoreUnavailable(
                f"{self.uri(key)} cannot be read: its body is cut ({error})"
            ) from None
        except (BotoCoreError, ClientError) as error:
            raise self.problem(error, key) from None

    def put(
        self, key: str, body: Any, content_type: str, kind: Kind = "record", **options: Any
    ) -> PutObjectOutputTypeDef:
        """Write an object.

        Args:
            key: Where.
            body: Bytes, or a file.
            content_type: As `image/png`.
            kind: What it is, as not all storage options concern everything.
            **options: Of `put_object`; with `IfNoneMatch` or `IfMatch` only where the object is not
                there, or has not changed. A store that says it does not know these writes plainly.

        Returns:
            What the store says of it, as the tag that tells this version apart.

        Raises:
            PreconditionFailed: If the condition did not hold.
            BucketNotUsable: If nothing can be written there.
            StorageError: If this could not be written.
        """
        if isinstance(body, bytes) and "ChecksumSHA256" not in options:
            # Named, it is a plain header. Over TLS boto3 sends a trailer: Ceph and rclone answer 411.
            options["ChecksumSHA256"] = b64encode(sha256(body).digest()).decode()
        try:
            return self._send(
                kind, Bucket=self.name, Key=key, Body=body, ContentType=content_type, **options
            )
        except (BotoCoreError, ClientError) as error:
            status = status_of(error) if isinstance(error, ClientError) else 0
            conditions = {"IfNoneMatch", "IfMatch"} & set(options)
            if conditions and status in (409, 412):
                raise PreconditionFailed(f"{self.uri(key)} is there already, or has changed") from None
            if conditions and status == 501:
                if hasattr(body, "seek"):
                    body.seek(0)
                plain = {name: value for name, value in options.items() if name not in conditions}
                return self.put(key, body, content_type, kind, **plain)
            raise self.problem(error, key) from None

    def put_unfit(
        self, key: str, body: Any, content_type: str, **options: Any
    ) -> tuple[bool, PutObjectOutputTypeDef | None]:
        """Write an image, signed as if it were another: a store that checks what it gets refuses that.

        One that does not holds the image then, with nothing wrong about it. Whatever else a store
        answers may be about the signature, so that it says nothing of the image: `put` will tell.

        Returns:
            Whether the store checks, and what it says of the image if it took it.

        Raises:
            PreconditionFailed: If there is an object already.
        """
        try:
            with signed_wrongly():
                return False, self.put(key, body, content_type, "image", **options)
        except PreconditionFailed:
            raise
        except (Unfit, SignedWrongly):
            return True, None
        except StorageError:
            return False, None

    def _send(self, kind: Kind, **request: Any) -> PutObjectOutputTypeDef:
        # Whoever copies an image sends it again, and for longer.
        for left in reversed(range(1 if kind == "image" else SEND_TRIES)):
            try:
                return self.client.put_object(**self._options.for_put(kind), **request)
            except ClientError as error:
                if not left or code_of(error) not in DAMAGED:
                    raise
                time.sleep(SEND_AGAIN_SECONDS)
        raise AssertionError("the last try has returned or raised")

    def keys(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """List the keys that begin with a prefix, and when each was written.

        Raises:
            BucketNotUsable: If the bucket cannot be listed.
            StorageError: If listing failed for another reason.
        """
        try:
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.name, Prefix=prefix):
                for item in page.get("Contents", []):
                    yield item["Key"], item["LastModified"]
        except (BotoCoreError, ClientError) as error:
            raise self.problem(error) from None

    def few(self, prefix: str) -> set[str] | None:
        """The keys that begin with a prefix, if one request finds them all."""
        try:
            page = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix)
        except (BotoCoreError, ClientError, StorageError):
            return None
        return (
            None if page.get("IsTruncated", True) else {item["Key"] for item in page.get("Contents", [])}
        )

    def read_uri(self, uri: str, max_bytes: int | None = None) -> bytes:
        """Read an `s3://bucket/key` address with this block's credentials.

        Args:
            uri: The address.
            max_bytes: Of what is there, no more than its first bytes; by default all.

        Raises:
            InvalidInput: If it cannot be read.
        """
        name, _, key = uri.removeprefix("s3://").partition("/")
        if not name or not key:
            raise InvalidInput(f"prompts_from: {uri} is no S3 address: write s3://bucket/key")
        try:
            return self.client.get_object(Bucket=name, Key=key)["Body"].read(max_bytes)
        except ClientError as error:
            raise InvalidInput(
                f"prompts_from: {uri} cannot be read ({code_of(error)}): check the address, and that "
                "the bucket block's credentials may read it"
            ) from None
        except BotoCoreError as error:
            raise self.problem(error) from None

    def problem(self, error: Exception, key: str | None = None) -> StorageError:
        """Say what an error of boto3 means here."""
        return problem(error, self.name, key)
