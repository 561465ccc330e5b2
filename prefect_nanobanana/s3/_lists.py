"""Lists of prompts that lie in a bucket."""

from __future__ import annotations

from botocore.exceptions import ClientError

from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.s3._connection import FAILURES, Connection
from prefect_nanobanana.s3._errors import answer_of, text
from prefect_nanobanana.s3._locations import split_uri


def read_uri(connection: Connection, uri: str, max_bytes: int | None) -> bytes:
    """Read an `s3://bucket/key` address; see `ObjectStore.read_uri`."""
    place = split_uri(uri)
    if place is None:
        raise InvalidInput(f"prompts_from: {text(uri)} is no S3 address: write s3://bucket/key")
    try:
        answer = connection.call("get_object", Bucket=place[0], Key=place[1])
        content: bytes = answer["Body"].read(max_bytes)
        return content
    except ClientError as error:
        raise InvalidInput(
            f"prompts_from: {text(uri)} cannot be read ({answer_of(error)}): check the address, and "
            "that the bucket block's credentials may read it"
        ) from None
    except FAILURES as error:
        raise connection.problem(error) from None
