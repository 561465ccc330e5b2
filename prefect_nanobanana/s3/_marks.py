"""What is done with objects that are there: copied, tagged, and offered to be written by others."""

from __future__ import annotations

from typing import Any

from prefect_nanobanana.s3._connection import FAILURES, Connection
from prefect_nanobanana.s3._locations import presigned_put, unlogged
from prefect_nanobanana.storage_options import StorageOptions


class Marks:
    """Copies and tags the objects of a bucket.

    Args:
        connection: To the store.
        bucket: The bucket's name.
        options: How objects are stored.
    """

    def __init__(self, connection: Connection, bucket: str, options: StorageOptions) -> None:
        self._connection = connection
        self._bucket = bucket
        self._options = options

    unlogged = staticmethod(unlogged)
    """In a `with` statement boto3 tells nothing of what this thread sends."""

    def copy(self, key: str, to: str) -> None:
        """Have the store copy an image, with its content type, metadata and tags.

        Raises:
            StorageError: If it does not.
        """
        options = self._options.for_put("image")
        options.pop("Tagging", None)  # those of the original are copied
        source = {"Bucket": self._bucket, "Key": key}
        try:
            if self._options.is_public:  # the original may be private, and say more
                there = self._connection.call("head_object", Key=key)
                options |= {
                    "MetadataDirective": "REPLACE",
                    "ContentType": there.get("ContentType"),
                    "Metadata": self._options.shown(there.get("Metadata") or {}),
                }
            else:
                options.pop("CacheControl", None)
            self._connection.call("copy_object", CopySource=source, Key=to, **options)
        except FAILURES as error:
            raise self._connection.problem(error, key) from None

    def tag(self, key: str, name: str, value: str) -> None:
        """Give an object a tag, beside those that it has.

        Raises:
            StorageError: If the store does not.
        """
        try:
            found: Any = self._connection.call("get_object_tagging", Key=key)
            tags = {tag["Key"]: tag["Value"] for tag in found.get("TagSet", ())}
            if tags.get(name) == value:
                return
            listed = [{"Key": n, "Value": v} for n, v in {**tags, name: value}.items()]
            self._connection.call("put_object_tagging", Key=key, Tagging={"TagSet": listed})
        except FAILURES as error:
            raise self._connection.problem(error, key) from None

    def writable(self, key: str, content_type: str, seconds: float) -> tuple[str, dict[str, str]]:
        """Make an address with which whoever has it may write this one object.

        Args:
            key: Of the object.
            content_type: That it must have.
            seconds: For how long.

        Returns:
            The address, and the headers that a PUT to it must have.

        Raises:
            StorageError: If none can be made.
        """
        options = self._options
        request = {
            "Key": key,
            "ContentType": content_type,
            "ServerSideEncryption": options.encryption,
            "SSEKMSKeyId": options.kms_key_id,
        }
        headers = {
            "Content-Type": content_type,
            "x-amz-server-side-encryption": options.encryption,
            "x-amz-server-side-encryption-aws-kms-key-id": options.kms_key_id,
        }
        try:
            address = presigned_put(
                self._connection.client,
                {"Bucket": self._bucket, **{n: v for n, v in request.items() if v}},
                seconds,
            )
        except FAILURES as error:
            raise self._connection.problem(error, key) from None
        return address, {name: value for name, value in headers.items() if value}
