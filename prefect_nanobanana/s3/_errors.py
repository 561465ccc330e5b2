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
    ResponseStreamingError,
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

_OPTIONS = {
    "tags": re.compile("x-amz-tagging|InvalidTag", re.I),
    "acl": re.compile(r"x-amz-acl|\bacls?\b", re.I),
    "storage_class": re.compile("x-amz-storage-class|storage ?class", re.I),
    "encryption": re.compile("server[- ]side[- ]encryption", re.I),
}
"""What refusals name, by the storage option that is not taken then."""
_NOT_TAKEN_STATUS = {400, 501}

CONFLICTS = {"ConditionalRequestConflict", "OperationAborted"}
"""Somebody else writes the same at this moment; AWS asks to send it again (its documentation)."""
DAMAGED = {
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "IncompleteBody",
}
"""What arrived was not what was sent, and was not stored. boto3 does not send it again."""

_PASSING = {"RequestTimeout", *CONFLICTS, *DAMAGED}
_FINAL_STATUS = {501, 505, 507, 510, 511}
"""What may pass is `SlowDown`, 5xx but these (520 to 530 are Cloudflare's), and a few below."""

_FULL_STATUS = {413, 507}
_FULL = re.compile("quota|storagefull|insufficientstorage|entitytoolarge|nospace|storagelimit", re.I)
"""Codes of stores that are full, as XMinioStorageFull and QuotaExceeded, or take nothing so large."""
_FULL_WORDS = re.compile(
    r"storage cap|quota (?:is |was )?(?:reached|exceeded)|no space left|payload too large", re.I
)
"""What others say of it: Backblaze and Garage with AccessDenied, stores on a disk with 500."""

_MOST_CHARACTERS = 10_000
"""As much of what is said is looked at."""
_AWAY = (ConnectionError, HTTPClientError, IncompleteReadError)
"""A network that fails: boto3 has tried most of it again likewise."""
CUT = (ResponseStreamingError, IncompleteReadError, AttributeError)
"""boto3 does not ask again for a body that is cut, as of an object that is replaced while it is read.
AttributeError: botocore itself was seen to raise it then (rclone, two runs writing one record)."""
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
    cut = str(said)[:_MOST_CHARACTERS]
    without_password = re.sub(r"//[^/@\s]*@", "//", without_signatures(cut))
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


def may_pass(status: int) -> bool:
    """Whether a request that got this status may be sent again."""
    return status in (408, 429) or (status >= 500 and status not in _FINAL_STATUS)


def option_named(error: ClientError) -> str | None:
    """The storage option that a store says it does not take."""
    if status_of(error) not in _NOT_TAKEN_STATUS:
        return None
    said = said_by(error)
    return next((name for name, words in _OPTIONS.items() if words.search(said)), None)


def said_by(error: ClientError) -> str:
    """All that it says: AWS and its like name a header in an element of its own."""
    return " ".join(str(value)[:_MOST_CHARACTERS] for value in error.response.get("Error", {}).values())


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
    passes = may_pass(status)
    by_code = _FULL.search(code) and not passes
    by_words = _FULL_WORDS.search(said_by(error)) and (status == 500 or not passes)
    if status in _FULL_STATUS or by_code or by_words:
        named = answer if answer.startswith(str(status)) else f"{status} {answer}"
        return StoreRefuses(f"the store takes no more of this: S3 answered {named} for {what}", named)
    if code in _UNUSABLE:
        return BucketNotUsable(f"bucket {bucket!r}: {_UNUSABLE[code]} ({answer})")
    if option := option_named(error):
        return BucketNotUsable(
            f"bucket {bucket!r}: it does not take this: correct {option}, among the storage options "
            f"({answer})"
        )
    if status in _REFUSING_STATUS and code not in _OF_ONE_OBJECT:
        return BucketNotUsable(f"bucket {bucket!r}: {_REFUSED} ({answer})")
    passing = code in _PASSING or passes
    return (StoreUnavailable if passing else StorageError)(f"S3 answered {answer} for {what}")
