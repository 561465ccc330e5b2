"""What S3 and boto3 say when something fails, by what it means for a run."""

from __future__ import annotations

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

from prefect_nanobanana.errors import BucketNotUsable, StorageError

_UNUSABLE = {
    "NoSuchBucket": "it does not exist: create it, or mend the name in the S3 Bucket block",
    "AccessDenied": "access is denied: grant s3:ListBucket, s3:GetObject and s3:PutObject on it; some "
    "stores say so of wrong or expired credentials, too",
    "AllAccessDisabled": "access is disabled",
    "InvalidAccessKeyId": "the access key is not known to the store: mend the credentials block",
    "SignatureDoesNotMatch": "the secret key is wrong: mend the credentials block",
    "ExpiredToken": "the session token has expired: renew the credentials",
    "InvalidToken": "the session token is not valid: renew the credentials",
    "InvalidBucketName": "that is no name a bucket can have",
    "AccessControlListNotSupported": "it takes no ACLs: leave acl empty, among the storage options",
    "InvalidStorageClass": "it does not know the storage class: mend storage_class, among the storage "
    "options",
    **dict.fromkeys(
        ("KMS.NotFoundException", "KMS.DisabledException", "KMS.KMSInvalidStateException"),
        "the KMS key cannot be used: mend kms_key_id, among the storage options, or enable the key",
    ),
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "PermanentRedirect": "it is in another region: set the region in the credentials block",
    "301": "it is in another region: set the region in the credentials block",
    "HeadObject 400": "the credentials have expired, or the region is wrong: mend the credentials block",
}
"""What no retry helps against, by S3's error codes, and the cure."""
_REFUSED = "access is denied, or the credentials are wrong"
_REFUSING_STATUS = {401, 403}
_OF_ONE_OBJECT = {"InvalidObjectState"}
"""What is refused of one object, and not of the others."""

_UNFIT = {"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
"""What arrived is not what the checksum or the signature says."""

DAMAGED = {*_UNFIT, "IncompleteBody"}
"""What arrived was not what was sent, and was not stored. boto3 does not send it again."""

_PASSING = {"RequestTimeout", *DAMAGED}
_PASSING_STATUS = {429, 500, 502, 503, 504}
"""What may pass, `SlowDown` among it; boto3 has tried most of it again a few times already."""

_AWAY = (ConnectionError, HTTPClientError, IncompleteReadError)
"""A network that fails: boto3 has tried most of it again likewise."""
_NO_CREDENTIALS = (
    *(NoCredentialsError, PartialCredentialsError, ProfileNotFound),
    *(CredentialRetrievalError, MetadataRetrievalError, SSOError),
)


class StoreUnavailable(StorageError):
    """The store could not be reached, or was too busy, for longer than boto3 tries; it may come back."""


class Unfit(StoreUnavailable):
    """The store found that what arrived is not what was signed, or does not fit its checksum."""


class SignedWrongly(BucketNotUsable):
    """The store worked out another signature."""


class ObjectCorrupted(StorageError):
    """An object is not what was sent."""


class PreconditionFailed(StorageError):
    """A conditional write found the object changed, or there already."""


def code_of(error: ClientError) -> str:
    """S3's name for an error, as `NoSuchKey`, or its status, if there was no body to name it."""
    code = str(error.response.get("Error", {}).get("Code", "")) or "unknown"
    return f"{error.operation_name} 400" if code == "400" else code


def status_of(error: ClientError) -> int:
    """The HTTP status of an error; 0 if there was no answer."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def problem(error: Exception, bucket: str, key: str | None = None) -> StorageError:
    """Say what an error of boto3 means.

    Args:
        error: The error.
        bucket: The bucket's name.
        key: The object that it is about, if it is about one.
    """
    what = bucket if key is None else f"{bucket}/{key}"
    if isinstance(error, ClientError):
        code, said = code_of(error), error.response.get("Error", {}).get("Message", "")
        if code in _UNUSABLE:
            unusable = SignedWrongly if code == "SignatureDoesNotMatch" else BucketNotUsable
            return unusable(f"bucket {bucket!r}: {_UNUSABLE[code]} ({code})")
        if status_of(error) in _REFUSING_STATUS and code not in _OF_ONE_OBJECT:
            return BucketNotUsable(f"bucket {bucket!r}: {_REFUSED} ({code})")
        passing = code in _PASSING or status_of(error) in _PASSING_STATUS
        kind_of = Unfit if code in _UNFIT else StoreUnavailable if passing else StorageError
        return kind_of(f"S3 answered {code} for {what}: {said}")
    kind = type(error).__name__
    if isinstance(error, _NO_CREDENTIALS):
        return BucketNotUsable(
            f"bucket {bucket!r}: there are no credentials for it: set them in the block, or log in "
            f"again ({kind})"
        )
    if isinstance(error, ValueError):
        return BucketNotUsable(f"bucket {bucket!r}: the endpoint URL is wrong ({error})")
    if isinstance(error, _AWAY):
        return StoreUnavailable(
            f"bucket {bucket!r}: the store cannot be reached: check the endpoint URL ({error})"
        )
    return StorageError(f"S3 could not be used for {what} ({kind}: {error})")
