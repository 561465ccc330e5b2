"""S3 as this package uses it: one client per bucket block, and errors by what they mean.

Only this module, `ledger` and `storage` know boto3.
"""

from __future__ import annotations

import functools
import io
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import botocore
from botocore.auth import AUTH_TYPE_MAPS, S3SigV4Auth
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ResponseStreamingError,
)

from prefect_nanobanana._version import __version__
from prefect_nanobanana.errors import BucketNotUsable, InvalidInput, StorageError
from prefect_nanobanana.storage_options import Kind, StorageOptions

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import PutObjectOutputTypeDef
    from prefect_aws import AwsCredentials, MinIOCredentials, S3Bucket

SIGNED_SECONDS = 7 * 24 * 3600
"""The longest that S3 allows (its documentation)."""
_CHUNK_BYTES = 64 * 1024
_PIECE_BYTES = 1024 * 1024
POOL_CONNECTIONS = 32
"""Copies and records of one run share the client's connections."""

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
    "PermanentRedirect": "it is in another region: set the region in the credentials block",
    "403": "access is denied, or the credentials are wrong",
    "301": "it is in another region: set the region in the credentials block",
}
"""What no retry helps against, by S3's error codes, and the cure."""

_UNFIT = {"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
"""What arrived is not what the checksum or the signature says."""
_DAMAGED = {*_UNFIT, "IncompleteBody"}
"""What arrived was not what was sent, and was not stored. boto3 does not send it again."""
SEND_TRIES = 3
SEND_AGAIN_SECONDS = 0.2

_PASSING = {
    *("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "500", "502", "503"),
    *_DAMAGED,
}
"""What may pass: partly boto3 has tried it again a few times already."""

_CUT = (ResponseStreamingError, IncompleteReadError, AttributeError)
"""boto3 does not ask again for a body that is cut, as of an object that is replaced while it is read.
AttributeError: botocore itself was seen to raise it then (rclone, two runs writing one record)."""
READ_TRIES = 5
READ_AGAIN_SECONDS = 0.1

_AWAY = {
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "ReadTimeoutError",
    "ResponseStreamingError",
}
"""boto3's names for a network that fails, which it has tried again likewise."""


class StoreAway(StorageError):
    """The store could not be reached, or was too busy, for longer than boto3 tries; it may come back."""


class Unfit(StoreAway):
    """The store found that what arrived is not what was signed, or does not fit its checksum."""


class Damaged(StorageError):
    """An object is not what was sent."""


class Changed(StorageError):
    """A conditional write found the object changed, or there already."""


_CLIENT_LOCK = threading.Lock()
_SIGNER = "nanobanana-s3v4"
_SHA256 = "nanobanana_sha256"
_signing = threading.local()


@functools.lru_cache(maxsize=8)
def _client(credentials: AwsCredentials | MinIOCredentials) -> S3Client:
    """The client of a credentials block; a new one costs a tenth of a second and 12 MB."""
    options: dict[str, Any] = credentials.aws_client_parameters.get_params_override()
    ours = Config(
        max_pool_connections=POOL_CONNECTIONS,
        # It sends a body again rightly after cuts and 503s; nothing of ours goes around it.
        retries={"mode": "standard", "total_max_attempts": 5},
        # The default for signed links is a form that newer regions and many stores refuse.
        signature_version="s3v4",
        # boto3 puts its own together anew for each request, a fifth of what one costs.
        user_agent=f"prefect-nanobanana/{__version__} Botocore/{botocore.__version__}",
    )
    theirs = options.pop("config", None)
    if credentials.region_name:
        options["region_name"] = credentials.region_name
    client = credentials.get_boto3_session().client(
        "s3", config=ours.merge(theirs) if theirs else ours, **options
    )
    client.meta.events.register_last("before-call.s3.PutObject", _send_at_once)
    client.meta.events.register("choose-signer.s3.PutObject", _choose_signer)  # type: ignore[arg-type]
    return client


class _InLargePieces:
    """A file that gives larger pieces than urllib3 asks for: 20 MB in pieces of 16 KB take long."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(max(size, _PIECE_BYTES) if size > 0 else size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _send_at_once(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    if checksum := params["headers"].get("x-amz-checksum-sha256"):
        wrongly = getattr(_signing, "wrongly", False)
        context[_SHA256] = "0" * 64 if wrongly else b64decode(checksum).hex()
    # boto3 makes bytes a file, asks before it sends one, and sends it in pieces of 16 KB: for a small
    # body, all of that takes longer than sending it.
    if isinstance(params["body"], io.BytesIO):
        params["body"] = params["body"].getvalue()
        params["headers"].pop("Expect", None)
    else:
        params["body"] = _InLargePieces(params["body"])


class _HashedAlready(S3SigV4Auth):
    """Signs an upload with the SHA-256 that it carries anyway; boto3 would work it out anew."""

    def payload(self, request: Any) -> str:
        return str(request.context[_SHA256])


AUTH_TYPE_MAPS[_SIGNER] = _HashedAlready


def _choose_signer(
    context: dict[str, Any], signing_name: str, signature_version: Any, **_: Any
) -> str | None:
    signs = (context["client_config"].s3 or {}).get("payload_signing_enabled", True)
    usual = signing_name == "s3" and signature_version in ("v4", "s3v4")
    return _SIGNER if signs and usual and _SHA256 in context else None


class Bucket:
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
        self._options = options or StorageOptions()

    def __repr__(self) -> str:
        return f"Bucket({self.name!r}, {self.folder!r})"

    @functools.cached_property
    def client(self) -> S3Client:
        """The boto3 client, one for all threads and runs, with connections enough for them.

        Raises:
            BucketNotUsable: If no client can be made of the block.
        """
        try:
            with _CLIENT_LOCK:
                return _client(self._block.credentials)
        except (BotoCoreError, ClientError, ValueError) as error:
            raise self.problem(error) from None

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
                if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                    return None
                raise self.problem(error, key) from None
            except _CUT as error:
                if not left:
                    raise StoreAway(
                        f"{self.uri(key)} cannot be read: its body is cut ({error})"
                    ) from None
                time.sleep(READ_AGAIN_SECONDS)
            except BotoCoreError as error:
                raise self.problem(error, key) from None
        raise AssertionError("the last try has returned or raised")

    def read(self, key: str) -> Iterator[bytes]:
        """Read an object in pieces.

        Raises:
            Damaged: If it does not fit the checksum that the store keeps of it.
            StorageError: If it cannot be read.
        """
        try:
            body = self.client.get_object(Bucket=self.name, Key=key)["Body"]
            yield from body.iter_chunks(_CHUNK_BYTES)
        except FlexibleChecksumError:
            raise Damaged(f"{self.uri(key)} does not fit its checksum") from None
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
            Changed: If the condition did not hold.
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
            status = 0
            if isinstance(error, ClientError):
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            conditions = {"IfNoneMatch", "IfMatch"} & set(options)
            if conditions and status in (409, 412):
                raise Changed(f"{self.uri(key)} is there already, or has changed") from None
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

        One that does not holds the image then, with nothing wrong about it.

        Returns:
            Whether the store checks, and what it says of the image if it took it.

        Raises:
            Changed, BucketNotUsable, StoreAway: As `put` does.
        """
        _signing.wrongly = True
        try:
            return False, self.put(key, body, content_type, "image", **options)
        except Unfit:
            return True, None
        except BucketNotUsable as error:
            # So say stores that work out the signature from what they got; and those with other keys.
            if "SignatureDoesNotMatch" in str(error):
                return True, None
            raise
        except (Changed, StoreAway):
            raise
        except StorageError:
            return False, None  # whatever that was, it may be about the signature
        finally:
            _signing.wrongly = False

    def _send(self, kind: Kind, **request: Any) -> PutObjectOutputTypeDef:
        # Whoever copies an image sends it again, and for longer.
        for left in reversed(range(1 if kind == "image" else SEND_TRIES)):
            try:
                return self.client.put_object(**self._options.for_put(kind), **request)
            except ClientError as error:
                if not left or error.response.get("Error", {}).get("Code") not in _DAMAGED:
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
        return None if page["IsTruncated"] else {item["Key"] for item in page.get("Contents", [])}

    def read_uri(self, uri: str) -> bytes:
        """Read an `s3://bucket/key` address with this block's credentials.

        Raises:
            InvalidInput: If it cannot be read.
        """
        name, _, key = uri.removeprefix("s3://").partition("/")
        if not name or not key:
            raise InvalidInput(f"prompts_from: {uri} is no S3 address: write s3://bucket/key")
        try:
            return self.client.get_object(Bucket=name, Key=key)["Body"].read()
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            raise InvalidInput(
                f"prompts_from: {uri} cannot be read ({code}): check the address, and that the "
                "bucket block's credentials may read it"
            ) from None
        except BotoCoreError as error:
            raise self.problem(error) from None

    def problem(self, error: Exception, key: str | None = None) -> StorageError:
        """Say what an error of boto3 means."""
        what = self.name if key is None else f"{self.name}/{key}"
        if isinstance(error, ClientError):
            details = error.response.get("Error", {})
            code = str(details.get("Code", "")) or "unknown"
            if code in _UNUSABLE:
                return BucketNotUsable(f"bucket {self.name!r}: {_UNUSABLE[code]} ({code})")
            kind_of = Unfit if code in _UNFIT else StoreAway if code in _PASSING else StorageError
            return kind_of(f"S3 answered {code} for {what}: {details.get('Message', '')}")
        kind = type(error).__name__
        if kind in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
            return BucketNotUsable(
                f"bucket {self.name!r}: there are no credentials for it: set them in the block ({kind})"
            )
        if isinstance(error, ValueError):
            return BucketNotUsable(f"bucket {self.name!r}: the endpoint URL is wrong ({error})")
        if kind in _AWAY:
            return StoreAway(
                f"bucket {self.name!r}: the store cannot be reached: check the endpoint URL ({error})"
            )
        return StorageError(f"S3 could not be used for {what} ({kind}: {error})")
