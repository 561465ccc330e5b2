"""What is no store, what is full, and what a store says: named as what it is, in its own words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from copies import PNG, copy_image
from memory_s3 import MemoryS3
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr
from servers import Reply, Scripted, Seen

from prefect_nanobanana import BucketNotUsable, InvalidInput, StorageError, StorageOptions, StoreRefuses
from prefect_nanobanana.s3 import ObjectStore, StoreUnavailable

MakeBucket = Callable[..., S3Bucket]
JSON = "application/json"


@pytest.fixture
def store() -> Iterator[MemoryS3]:
    with MemoryS3() as server:
        yield server


def _error(status: int, code: str, message: str, more: str = "") -> Reply:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return Reply(body.encode(), status, {"Content-Type": "application/xml"})


CALLS: dict[str, Callable[[ObjectStore], Any]] = {
    "list": lambda opened: list(opened.keys("b/")),
    "head": lambda opened: opened.head("b/x.png"),
    "put": lambda opened: opened.put("b/x.json", b"{}", JSON, IfNoneMatch="*"),
    "read": lambda opened: opened.find("b/x.json"),
}
ELSEWHERE = "https://s3.example.org:8443/pictures/b?X-Amz-Signature=hush"
REDIRECTS = {
    "to https": (Reply(b"", 301, {"Location": ELSEWHERE}), "redirects to https://s3.example.org:8443 "),
    "for now": (Reply(b"", 307, {"Location": ELSEWHERE}), "redirects to https://s3.example.org:8443 "),
    "for good": (Reply(b"", 308, {"Location": ELSEWHERE}), "redirects to https://s3.example.org:8443 "),
    "a page": (
        Reply(b"<html>Moved", 302, {"Location": "https://login.example.org/?next=x"}),
        "redirects to https://login.example.org ",
    ),
    "nowhere": (Reply(b"", 301), "names no other endpoint"),
    "to itself": (Reply(b"", 301, {"Location": "/pictures/"}), "names no other endpoint"),
    "a region": (
        _error(301, "PermanentRedirect", "use the endpoint", "<Endpoint>b.s3.example.org</Endpoint>"),
        "redirects to b.s3.example.org|names no other endpoint",
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", REDIRECTS)
def test_an_endpoint_that_redirects_is_named(
    make_bucket: MakeBucket, store: MemoryS3, case: str, call: str
) -> None:
    reply, says = REDIRECTS[case]
    store.refuse = lambda _: reply
    with pytest.raises(BucketNotUsable, match=says) as caught:
        CALLS[call](ObjectStore(make_bucket(endpoint_url=store.url)))
    assert store.url in str(caught.value)
    assert "in the credentials block" in str(caught.value)
    assert "hush" not in str(caught.value)
    assert len(store.seen) == 1


@pytest.mark.parametrize("call", CALLS)
def test_a_bucket_in_another_region_is_found_or_named(
    make_bucket: MakeBucket, store: MemoryS3, call: str
) -> None:
    headers = {"x-amz-bucket-region": "eu-west-1"}

    def elsewhere(seen: Seen) -> Reply | None:
        signed = "/eu-west-1/s3/" in seen.headers["authorization"]
        return None if signed and follows else Reply(b"", 301, headers)

    store.refuse, follows = elsewhere, True
    CALLS[call](ObjectStore(make_bucket(endpoint_url=store.url)))
    follows = False
    with pytest.raises(BucketNotUsable, match="in another region: set the region in the credentials"):
        CALLS[call](ObjectStore(make_bucket(endpoint_url=store.url)))


CONSOLE = b"<!doctype html><html><head><title>MinIO\n Console</title></head><body>%s</body></html>"
NOT_STORES = {
    "a console": (
        Reply(CONSOLE % (b"x" * 9000), 200, {"Content-Type": "text/html"}),
        "list put",
        "an HTML page, as no S3 store does.*says: MinIO Console",
    ),
    "XHTML": (
        Reply(b"<html xmlns='http://www.w3.org/1999/xhtml'><body>Welcome</body></html>"),
        "list put",
        "HTML page, as no S3 store does.*says: Welcome",
    ),
    "JSON": (Reply(b'{"status": "ok"}'), "list", "a listing with something else.*status"),
    "nothing": (Reply(b""), "list", "a listing with something else"),
    "other XML": (Reply(b"<Feed><Entry/></Feed>"), "list", "a listing with something else"),
    "a page for a HEAD": (Reply(CONSOLE, 200, {"Content-Type": "text/html"}), "head", "an HTML page"),
    "a firewall": (
        Reply(b"<html><h1>Blocked</h1>", 403),
        "list put read",
        "403 with an HTML page.*Blocked",
    ),
    "no such page": (Reply(CONSOLE, 404), "list put read", "answers 404 with an HTML page"),
    "https wanted": (
        Reply(b"Client sent an HTTP request to an HTTPS server.\n", 400),
        "list put read",
        "400: Client sent an HTTP request to an HTTPS server",
    ),
}


@pytest.mark.parametrize("case", NOT_STORES)
def test_what_is_no_store_is_named(make_bucket: MakeBucket, store: MemoryS3, case: str) -> None:
    reply, calls, says = NOT_STORES[case]
    store.refuse = lambda _: reply
    for call in calls.split():
        with pytest.raises(StorageError, match=says) as caught:
            CALLS[call](ObjectStore(make_bucket(endpoint_url=store.url)))
        assert len(str(caught.value)) < 600
        if reply.status != 400:
            assert isinstance(caught.value, BucketNotUsable)
            assert store.url in str(caught.value)


@pytest.mark.parametrize("path", ["/pictures", "/pictures/", "/s3/pictures"])
def test_an_endpoint_with_the_bucket_in_it(make_bucket: MakeBucket, store: MemoryS3, path: str) -> None:
    url = f"http://user:hush@127.0.0.1:{store.port}{path}"
    with pytest.raises(BucketNotUsable, match="bucket in its path: write http://127") as caught:
        list(ObjectStore(make_bucket(endpoint_url=url)).keys("x"))
    assert "hush" not in str(caught.value)
    assert store.seen == []
    host = "https://pictures.s3.eu-west-1.amazonaws.com"
    with pytest.raises(BucketNotUsable, match=r"in its host: write https://s3\.eu-west-1\.amazonaws"):
        list(ObjectStore(make_bucket(endpoint_url=host)).keys("x"))


def test_an_endpoint_with_another_path(make_bucket: MakeBucket, store: MemoryS3) -> None:
    opened = ObjectStore(make_bucket(endpoint_url=f"{store.url}/storage/v1/s3", bucket_folder="v1"))
    opened.put("a.json", b"{}", JSON)
    assert store.asked("PUT")[0].path == "/storage/v1/s3/pictures/a.json"


LONG = "no room at all, " * 50
FULL = {
    "a proxy": (Reply(b"<html><title>413 Request Entity Too Large</title>", 413), "413: 413 Request"),
    "MinIO": (
        _error(507, "XMinioStorageFull", "The backend has reached its minimum free drive"),
        "507 X",
    ),
    "WebDAV": (Reply(b"", 507), "507"),
    "too large": (
        _error(400, "EntityTooLarge", "Your proposed upload exceeds the maximum"),
        "400 Entity",
    ),
    "Ceph": (_error(403, "QuotaExceeded", ""), "403 QuotaExceeded"),
    "a bucket's quota": (_error(400, "XMinioAdminBucketQuotaExceeded", LONG), "400 XMinioAdminBucketQ"),
}


@pytest.mark.parametrize("case", FULL)
def test_a_store_that_takes_no_more_says_so(make_bucket: MakeBucket, store: MemoryS3, case: str) -> None:
    reply, answer = FULL[case]
    store.refuse = lambda seen: reply if seen.method == "PUT" else None
    with Scripted(lambda _: Reply(PNG)) as host, pytest.raises(StoreRefuses) as caught:
        copy_image(make_bucket(endpoint_url=store.url), host.url, retry=60)
    assert caught.value.answer.startswith(answer)
    assert len(caught.value.answer) <= 210
    assert caught.value.answer in str(caught.value)
    assert len(store.asked("PUT")) == 1, "it is not tried again"


@pytest.mark.parametrize("status", [503, 500, 429])
def test_a_store_without_room_for_now_is_tried_again(
    make_bucket: MakeBucket, store: MemoryS3, status: int
) -> None:
    store.refuse = lambda _: _error(status, "InsufficientStorageForNow", "later")
    with pytest.raises(StoreUnavailable, match="later"):
        ObjectStore(_impatient(make_bucket(endpoint_url=store.url))).put("x", b"", JSON)


def _impatient(block: S3Bucket) -> S3Bucket:
    """Where boto3 itself tries once."""
    block.credentials.aws_client_parameters.config = {"retries": {"total_max_attempts": 1}}
    return block


WORDS = {
    "denied": (
        403,
        "AccessDenied",
        "User: arn:aws:iam::1:user/x is not authorized to perform: s3:PutObject",
    ),
    "unknown key": (403, "InvalidAccessKeyId", "The access key does not exist in our records."),
    "no bucket": (404, "NoSuchBucket", "The specified bucket does not exist, dear user"),
    "something": (409, "OperationAborted", "A conflicting operation is in progress"),
    "busy": (503, "SlowDown", "Please reduce your request rate"),
    "storage class": (400, "InvalidStorageClass", "GLACIER is not for this bucket"),
    "token": (400, "ExpiredToken", "The provided token has expired, log in"),
    "odd": (418, "Teapot", "short and stout"),
    "long": (400, "InvalidRequest", "very " * 200),
}


@pytest.mark.parametrize("case", WORDS)
@pytest.mark.parametrize("call", ["list", "put", "read"])
def test_the_stores_own_words_are_part_of_the_error(
    make_bucket: MakeBucket, store: MemoryS3, case: str, call: str
) -> None:
    status, code, message = WORDS[case]
    store.refuse = lambda _: _error(status, code, message)
    with pytest.raises(StorageError) as caught:
        CALLS[call](ObjectStore(_impatient(make_bucket(endpoint_url=store.url))))
    said = str(caught.value)
    assert code in said
    assert (message in said) == (len(message) < 200)
    assert message[:100].strip() in said
    assert len(said) < 500


NAMES = ["prompt text", "größe", "a:b", "x\r\nx-amz-acl", "", "\0", "SHA256", "sha256", "a/b"]


@pytest.mark.parametrize("name", NAMES)
def test_metadata_names_that_s3_does_not_take(
    make_bucket: MakeBucket, store: MemoryS3, name: str
) -> None:
    metadata: Any = {name: "x"}
    with (
        Scripted(lambda _: Reply(PNG)) as host,
        pytest.raises(InvalidInput, match="^metadata: ") as caught,
    ):
        copy_image(make_bucket(endpoint_url=store.url), host.url, **metadata)
    assert "\n" not in str(caught.value)
    assert (store.seen, host.seen) == ([], [])


@pytest.mark.parametrize("key", ["../x", "a/../b", "a/./b", "a/..", "..", "a\r\nb", "a\0b"])
def test_keys_that_could_leave_their_folder(make_bucket: MakeBucket, store: MemoryS3, key: str) -> None:
    with Scripted(lambda _: Reply(PNG)) as host, pytest.raises(InvalidInput, match="^key: "):
        copy_image(make_bucket(endpoint_url=store.url), host.url, key)
    assert (store.seen, host.seen) == ([], [])


@pytest.mark.parametrize("key", ["a..b", "...", "a b+c&d", "été/x", ".hidden"])
def test_keys_that_only_look_odd(make_bucket: MakeBucket, store: MemoryS3, key: str) -> None:
    with Scripted(lambda _: Reply(PNG)) as host:
        image = copy_image(make_bucket(endpoint_url=store.url), host.url, key).image
    assert list(store.objects) == [image.key]
    assert image.key.endswith(f"/{key}.png")


ARN = "arn:aws:s3:eu-west-1:123456789012:accesspoint/team"
AT_AWS = "team-123456789012.s3-accesspoint.eu-west-1.amazonaws.com"
ARNS = {
    ARN: AT_AWS,
    ARN.replace("accesspoint/", "accesspoint:"): AT_AWS,
    ARN.replace(":s3:", ":s3-object-lambda:"): (
        "team-123456789012.s3-object-lambda.eu-west-1.amazonaws.com"
    ),
}


@pytest.mark.parametrize("arn", ARNS)
def test_an_access_point_is_a_bucket(arn: str) -> None:
    """AWS is played by a proxy: nothing leaves the machine."""
    seen: list[Seen] = []

    def answer(request: Seen) -> Reply:
        seen.append(request)
        return Reply(b"a cat\n" if request.method == "GET" else b"", 200, {"ETag": '"x"'})

    with Scripted(answer) as proxy:
        credentials = AwsCredentials(
            aws_access_key_id="any",
            aws_secret_access_key=SecretStr("any"),
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(
                use_ssl=False, config={"proxies": {"http": proxy.url}}
            ),
        )
        block = S3Bucket(bucket_name=arn, bucket_folder="f", credentials=credentials)
        opened = ObjectStore(block)
        opened.put(opened.key("a.json"), b"{}", JSON, IfNoneMatch="*")
        assert opened.uris.read(opened.uri("f/prompts.txt")) == b"a cat\n"
    host = ARNS[arn]
    assert [request.path for request in seen] == [
        f"http://{host}/f/a.json",
        f"http://{host}/f/prompts.txt",
    ]
    assert opened.uri("f/x") == f"s3://{arn}/f/x"
    link = opened.link("f/a b.png")
    quoted = arn.replace(":", "%3A").replace("/", "%2F")
    assert link == (
        f"https://console.aws.amazon.com/s3/object/{quoted}?region=eu-west-1&prefix=f%2Fa+b.png"
    )
    signed = ObjectStore(block, StorageOptions(links="signed")).link("f/x.png")
    assert signed is not None
    assert signed.startswith(f"http://{host}/f/x.png?X-Amz-Algorithm=")


@pytest.mark.parametrize("uri", ["s3://", "s3://b", f"s3://{ARN}", f"s3://{ARN}/", "s3:///x"])
def test_addresses_without_a_key(make_bucket: MakeBucket, uri: str) -> None:
    with pytest.raises(InvalidInput, match="is no S3 address: write s3://bucket/key"):
        ObjectStore(make_bucket()).uris.read(uri)
