"""What S3 and boto3 say when something fails, by what it means for a run."""

from __future__ import annotations

import re

from botocore.exceptions import (
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
)
from botocore.parsers import ResponseParserError

from prefect_nanobanana._common.text import shortened, visible, without_signatures
from prefect_nanobanana.errors import BucketNotUsable, StorageError, StoreRefuses

_UNUSABLE = {
    "NoSuchBucket": "it does not exist: create it, or correct the name in the S3 Bucket block",
    "AccessDenied": "access is denied: grant s3:ListBucket, s3:GetObject and s3:PutObject on it; some "
    "stores say so of wrong or expired credentials, too",
    "AllAccessDisabled": "access is disabled",
    "InvalidAccessKeyId": "the access key is not known to the store: correct the credentials block",
    "SignatureDoesNotMatch": "the secret key is wrong: correct the credentials block",
    "ExpiredToken": "the session token has expired: renew the credentials",
    "InvalidToken": "the session token is not valid: renew the credentials",
    "InvalidBucketName": "that is no name a bucket can have",
    "AccessControlListNotSupported": "it takes no ACLs: leave acl empty, among the storage options",
    "InvalidStorageClass": "it does not know the storage class: correct storage_class, among the "
    "storage options",
    **dict.fromkeys(
        ("KMS.NotFoundException", "KMS.DisabledException", "KMS.KMSInvalidStateException"),
        "the KMS key cannot be used: correct kms_key_id, among the storage options, or enable the key",
    ),
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    **dict.fromkeys(
        ("PermanentRedirect", "TemporaryRedirect", "301", "307", "AuthorizationHeaderMalformed"),
        "it is in another region: set the region in the credentials block",
    ),
    "HeadObject 400": "the credentials have expired, or the region is wrong: correct the credentials "
    "block",
}
"""What no retry helps against, by S3's error codes, and the cure."""
_REFUSED = "access is denied, or the credentials are wrong"
_REFUSING_STATUS = {401, 403}
_OF_ONE_OBJECT = {"InvalidObjectState"}
"""What is refused of one object, and not of the others."""

DAMAGED = {
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "IncompleteBody",
}
"""What arrived was not what was sent, and was not stored. boto3 does not send it again."""

_PASSING = {"RequestTimeout", *DAMAGED}
_PASSING_STATUS = {429, 500, 502, 503, 504}
"""What may pass, `SlowDown` among it; boto3 has tried most of it again a few times already."""

_FULL_STATUS = {413, 507}
_FULL = re.compile("quota|storagefull|insufficientstorage|entitytoolarge|nospace|storagelimit", re.I)
"""Codes of stores that are full, as XMinioStorageFull and QuotaExceeded, or take nothing so large."""

_AWAY = (ConnectionError, HTTPClientError, IncompleteReadError)
"""A network that fails: boto3 has tried most of it again likewise."""
_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    CredentialRetrievalError,
    MetadataRetrievalError,
    SSOError,
)


class StoreUnavailable(StorageError):
    """The store could not be reached, or was too busy, for longer than boto3 tries; it may come back."""


class ObjectCorrupted(StorageError):
    """An object is not what was sent."""


class PreconditionFailed(StorageError):
    """A conditional write found the object changed, or there already."""


def text(said: object) -> str:
    """What a store or boto3 says, fit for a message: short, on one line, and without a password."""
    without_password = re.sub(r"//[^/@\s]*@", "//", without_signatures(str(said)))
    return shortened(visible(" ".join(without_password.split())))


def code_of(error: ClientError) -> str:
    """S3's name for an error, as `NoSuchKey`, or its status, if there was no body to name it."""
    code = str(error.response.get("Error", {}).get("Code", "")) or "unknown"
    return f"{error.operation_name} 400" if code == "400" else code


def status_of(error: ClientError) -> int:
    """The HTTP status of an error; 0 if there was no answer."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def answer_of(error: ClientError) -> str:
    """The store's own words: its code, and its message if that says more."""
    code, message = code_of(error), error.response.get("Error", {}).get("Message") or ""
    return text(code if message in ("", code) else f"{code}: {message}")


def problem(error: Exception, bucket: str, key: str | None = None) -> StorageError:
    """Say what an error of boto3 means.

    Args:
        error: The error.
        bucket: The bucket's name.
        key: The object that it is about, if it is about one.
    """
    what = bucket if key is None else f"{bucket}/{key}"
    if isinstance(error, ClientError):
        return _answered(error, bucket, what)
    kind = type(error).__name__
    if isinstance(error, _NO_CREDENTIALS):
        return BucketNotUsable(
            f"bucket {bucket!r}: there are no credentials for it: set them in the block, or log in "
            f"again ({kind})"
        )
    if isinstance(error, ResponseParserError | KeyError | TypeError | RecursionError):
        return BucketNotUsable(
            f"bucket {bucket!r}: what the endpoint answers is not what an S3 store answers: check the "
            f"endpoint URL ({kind}: {text(error)})"
        )
    if isinstance(error, ValueError):
        return BucketNotUsable(f"bucket {bucket!r}: the endpoint URL is wrong ({text(error)})")
    if isinstance(error, _AWAY):
        return StoreUnavailable(
            f"bucket {bucket!r}: the store cannot be reached: check the endpoint URL ({text(error)})"
        )
    return StorageError(f"S3 could not be used for {what} ({kind}: {text(error)})")


def _answered(error: ClientError, bucket: str, what: str) -> StorageError:
    code, status, answer = code_of(error), status_of(error), answer_of(error)
    if code in _UNUSABLE:
        return BucketNotUsable(f"bucket {bucket!r}: {_UNUSABLE[code]} ({answer})")
    if status in _FULL_STATUS or (_FULL.search(code) and status not in _PASSING_STATUS):
        named = answer if answer.startswith(str(status)) else f"{status} {answer}"
        return StoreRefuses(f"the store takes no more of this: S3 answered {named} for {what}", named)
    if status in _REFUSING_STATUS and code not in _OF_ONE_OBJECT:
        return BucketNotUsable(f"bucket {bucket!r}: {_REFUSED} ({answer})")
    passing = code in _PASSING or status in _PASSING_STATUS
    return (StoreUnavailable if passing else StorageError)(f"S3 answered {answer} for {what}")
