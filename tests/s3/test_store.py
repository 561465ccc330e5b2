"""A bucket block, opened: options, errors, credentials."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    ProxyConnectionError,
    SSLError,
    UnauthorizedSSOTokenError,
)
from copies import PNG, copy_image, of_images, opaque
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.assume_role_parameters import AssumeRoleParameters
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr
from servers import FaultyS3, Reply, Scripted, Seen

from prefect_nanobanana import (
    BucketNotUsable,
    StorageError,
    StorageOptions,
    StoreRefuses,
)
from prefect_nanobanana.images._copier import Copier
from prefect_nanobanana.s3 import _boto as _s3_client
from prefect_nanobanana.s3._errors import StoreUnavailable, problem
from prefect_nanobanana.s3._store import ObjectStore

MakeBucket = Callable[..., S3Bucket]


def _refusal(code: str, status: int, operation: str = "PutObject") -> ClientError:
    details: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(details, operation)


def test_what_is_cut_while_it_is_read_is_read_again(make_bucket: MakeBucket, s3: Any) -> None:
    cut = [Reply(b"{", length=500)] * 2
    with FaultyS3(s3.endpoint_url) as proxy:
        proxy.fault = lambda seen: cut.pop() if seen.method == "GET" and cut else None
        bucket = ObjectStore(make_bucket(endpoint_url=proxy.url))
        tag = bucket.put("x/record.json", b"{}", "application/json").etag
        assert bucket.find("x/record.json") == (b"{}", tag)
        proxy.fault = lambda _: Reply(b"{", length=500)
        with pytest.raises(StorageError, match=r"x/record\.json cannot be read: its body is cut"):
            bucket.find("x/record.json")


def test_storage_options_reach_the_store(make_bucket: MakeBucket, moto_url: str) -> None:
    options = StorageOptions(
        storage_class="STANDARD_IA",
        encryption="aws:kms",
        kms_key_id="alias/pictures",
        acl="public-read",
        tags={"team": "Design and more", "cost": "7"},
        cache_control="no-store",
    )
    bucket = make_bucket(endpoint_url=moto_url)
    opened = ObjectStore(bucket, options)
    with FaultyS3(moto_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:

        def encrypted(seen: Seen, headers: dict[str, str]) -> None:
            """As AWS answers for objects that are encrypted with a key of one's own."""
            opaque(seen, headers)
            if checksum := seen.headers.get("x-amz-checksum-sha256"):
                headers["x-amz-checksum-sha256"] = checksum

        proxy.alter = encrypted
        image = copy_image(make_bucket(endpoint_url=proxy.url), host.url, options=options).image
        assert of_images(proxy, "GET") == []  # the store's checksum will do
    opened.put(opened.key("index.html"), b"page", "text/html", "page")
    opened.put(opened.key("records/x.json"), b"{}", "application/json")
    client = bucket.credentials.get_s3_client()

    def readers(key: str) -> list[str]:
        grants = client.get_object_acl(Bucket=opened.name, Key=key)["Grants"]
        return [grant["Grantee"].get("URI", "") for grant in grants]

    everybody = "http://acs.amazonaws.com/groups/global/AllUsers"
    kinds = [(image.key, True), (opened.key("index.html"), True), (opened.key("records/x.json"), False)]
    for key, public in kinds:
        head = client.head_object(Bucket=opened.name, Key=key)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/pictures")
        assert (everybody in readers(key)) is public
        tags = client.get_object_tagging(Bucket=opened.name, Key=key)["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == options.tags
        is_image = key == image.key
        assert head.get("StorageClass") == ("STANDARD_IA" if is_image else None)
        assert head.get("CacheControl") == ("no-store" if is_image else None)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kms_key_id": "k"}, "kms_key_id: it is for aws:kms only"),
        ({"tags": {str(n): "" for n in range(11)}}, "at most 10 tags, and here are 11"),
        ({"tags": {"": "x"}}, "too long|128"),
        ({"tags": {"x": "y" * 257}}, "too long"),
        ({"tags": {"x": "a & b"}}, "characters that S3 does not take"),
        ({"storage_class": "standard ia"}, "storage_class"),
        ({"acl": "Public\r\nx"}, "acl"),
        ({"cache_control": "a\r\nb: c"}, "cache_control"),
        ({"storageclass": "X"}, "storageclass"),
    ],
)
def test_storage_options_that_make_no_sense(wrong: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        StorageOptions(**wrong)


@pytest.mark.parametrize("signs", [True, False])
def test_uploads_are_signed_with_their_checksum(make_bucket: MakeBucket, s3: Any, signs: bool) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        block = make_bucket(endpoint_url=proxy.url)
        if not signs:
            parameters = block.credentials.aws_client_parameters
            parameters.config = {"s3": {"payload_signing_enabled": False}}
        opened = ObjectStore(block)
        with Copier.for_bucket(opened, ["127.0.0.1"]) as copier:
            copier.copy(host.url, opened.key("x"))
        opened.put("x.json", b"{}", "application/json")
        sent = [seen for seen in proxy.seen if seen.method == "PUT"]
    assert len(sent) == 2
    for seen in sent:
        digest = hashlib.sha256(seen.body)
        signed = digest.hexdigest() if signs else "UNSIGNED-PAYLOAD"
        assert seen.headers["x-amz-content-sha256"] == signed
        assert base64.b64decode(seen.headers["x-amz-checksum-sha256"]) == digest.digest()
        assert seen.headers["user-agent"].startswith("prefect-nanobanana/")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"secret": "wrong"}, "secret key is wrong|access is denied"),
        ({"user": "nobody"}, "not known|access is denied"),
        ({"bucket_name": "no-such-bucket"}, "does not exist"),
        ({"endpoint_url": "http://127.0.0.1:1"}, "cannot be reached"),
        ({"endpoint_url": "nonsense"}, "the endpoint URL is wrong"),
        ({"bucket_name": "Not A Name!"}, "Not A Name!"),
    ],
)
def test_buckets_that_cannot_be_used(make_bucket: MakeBucket, changes: Any, says: str) -> None:
    bucket = ObjectStore(make_bucket(**changes))
    with pytest.raises(StorageError, match=says) as caught:
        list(bucket.keys("x/"))
    assert "wrong" not in str(caught.value).replace("is wrong", "").replace("are wrong", "")
    assert repr(bucket).startswith("ObjectStore(")


def test_a_bucket_without_credentials(bucket: S3Bucket) -> None:
    anonymous = bucket.model_copy(deep=True)
    credentials: Any = anonymous.credentials
    credentials.minio_root_user = credentials.minio_root_password = None
    with pytest.raises(BucketNotUsable, match="no credentials"):
        list(ObjectStore(anonymous).keys("x/"))


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (SSLError(endpoint_url="u", error=OSError()), StoreUnavailable, "cannot be reached"),
        (ProxyConnectionError(proxy_url="u"), StoreUnavailable, "cannot be reached"),
        (HTTPClientError(error=OSError()), StoreUnavailable, "cannot be reached"),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), StoreUnavailable, "cannot be reached"),
        (CredentialRetrievalError(provider="p", error_msg="e"), BucketNotUsable, "log in again"),
        (UnauthorizedSSOTokenError(), BucketNotUsable, "log in again"),
        (_refusal("400", 400, "HeadObject"), BucketNotUsable, "have expired, or the region is wrong"),
        (_refusal("400", 400), StorageError, "answered PutObject 400"),
        (_refusal("403", 403), BucketNotUsable, "credentials are wrong"),
        (_refusal("Unauthorized", 401), BucketNotUsable, "credentials are wrong"),
        (_refusal("UserSuspended", 403), BucketNotUsable, "credentials are wrong"),
        (_refusal("AccessControlListNotSupported", 400), BucketNotUsable, "leave acl empty"),
        (_refusal("KMS.DisabledException", 400), BucketNotUsable, "correct kms_key_id"),
        (_refusal("RequestTimeTooSkewed", 403), BucketNotUsable, "clock is wrong: set it"),
        (_refusal("InvalidObjectState", 403), StorageError, "answered InvalidObjectState"),
        (_refusal("EntityTooLarge", 400), StoreRefuses, "answered 400 EntityTooLarge"),
    ],
    ids=str,
)
def test_what_errors_mean(error: Exception, kind: type[StorageError], says: str) -> None:
    said = problem(error, "pictures", "x.png")
    assert type(said) is kind
    assert says in str(said)


def test_a_role_is_assumed_anew_before_its_session_ends(
    moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """prefect-aws assumes it once for each client, and runs may take longer than that lasts."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto_url)
    credentials = AwsCredentials(
        aws_access_key_id="any",
        aws_secret_access_key=SecretStr("any"),
        region_name="us-east-1",
        assume_role_arn="arn:aws:iam::123456789012:role/writer",
        assume_role_kwargs=AssumeRoleParameters(DurationSeconds=900),
        aws_client_parameters=AwsClientParameters(endpoint_url=moto_url),
    )
    opened = ObjectStore(S3Bucket(credentials=credentials, bucket_name="pictures"))
    now = [10_000.0]
    monkeypatch.setattr(_s3_client, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def token() -> Any:
        client: Any = opened._connection.client
        return client._request_signer._credentials.get_frozen_credentials().token

    first = token()
    assert first
    assert token() == first
    now[0] += 450
    assert token() not in (first, None)


def test_a_client_that_cannot_be_made(bucket: S3Bucket) -> None:
    bucket.credentials.aws_client_parameters.api_version = "1066-10-14"
    with pytest.raises(StorageError):
        ObjectStore(bucket).head("x")
