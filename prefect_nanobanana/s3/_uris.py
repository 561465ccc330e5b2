"""Objects by their `s3://` address, in whatever bucket the credentials of a block may read."""

from __future__ import annotations

from botocore.exceptions import ClientError, ParamValidationError

from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.s3._connection import FAILURES, Connection
from prefect_nanobanana.s3._errors import answer_of, status_of, text
from prefect_nanobanana.s3._locations import presigned, split_uri
from prefect_nanobanana.s3._objects import StoredObject


class Uris:
    """Reads objects by their address.

    Args:
        connection: To the store, with the block's credentials.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self, uri: str, max_bytes: int | None = None, *, parameter: str = "prompts_from") -> bytes:
        """Read an object.

        Args:
            uri: Its address.
            max_bytes: Of what is there, no more than its first bytes; by default all.
            parameter: Which one names it, for errors.

        Raises:
            InvalidInput: If it cannot be read.
            StorageError: If the store cannot be used.
        """
        bucket, key = _place(uri, parameter)
        try:
            answer = self._connection.call("get_object", Bucket=bucket, Key=key)
            return bytes(answer["Body"].read(max_bytes))
        except ClientError as error:
            raise _unreadable(uri, parameter, error) from None
        except ParamValidationError:
            raise _no_address(uri, parameter) from None
        except FAILURES as error:
            raise self._connection.problem(error) from None

    def head(self, uri: str, *, parameter: str) -> StoredObject | None:
        """Ask what the store says of an object; nothing if it is not there.

        Args:
            uri: Its address.
            parameter: Which one names it, for errors.

        Raises:
            InvalidInput: If it may not be read.
            StorageError: If the store cannot be used.
        """
        bucket, key = _place(uri, parameter)
        try:
            return StoredObject.of(self._connection.call("head_object", Bucket=bucket, Key=key))
        except ClientError as error:
            if status_of(error) == 404:
                return None
            raise _unreadable(uri, parameter, error) from None
        except ParamValidationError:
            raise _no_address(uri, parameter) from None
        except FAILURES as error:
            raise self._connection.problem(error) from None

    def presign(self, uri: str, seconds: float, tag: str = "") -> str:
        """Make an address with which whoever has it may read an object.

        Args:
            uri: Its address.
            seconds: For how long.
            tag: The version that it must have; by default any, and nothing is asked.

        Raises:
            InvalidInput: If it is no address of an object, or that has another version.
            StorageError: If none can be made.
        """
        parameter = "reference_image_urls"
        bucket, key = _place(uri, parameter)
        if tag:  # which teaches boto3 the bucket's region, too
            there = self.head(uri, parameter=parameter)
            if there is None or there.tag != tag:
                what = "is gone" if there is None else "has changed"
                raise InvalidInput(
                    f"{parameter}: {text(uri)} {what} since the run was planned: run it again"
                )
        try:
            return presigned(self._connection.client, bucket, key, seconds)
        except FAILURES as error:
            raise self._connection.problem(error) from None


def _place(uri: str, parameter: str) -> tuple[str, str]:
    place = split_uri(uri)
    if place is None:
        raise _no_address(uri, parameter)
    return place


def _no_address(uri: str, parameter: str) -> InvalidInput:
    return InvalidInput(f"{parameter}: {text(uri)} is no S3 address: write s3://bucket/key")


def _unreadable(uri: str, parameter: str, error: ClientError) -> InvalidInput:
    return InvalidInput(
        f"{parameter}: {text(uri)} cannot be read ({answer_of(error)}): check the address, and that the "
        "bucket block's credentials may read it"
    )
