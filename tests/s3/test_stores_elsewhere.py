"""Answers that public reports of other stores are full of: Ceph, Garage, Backblaze, R2, Google."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from copies import PNG, copy_image
from memory_s3 import MemoryS3
from prefect_aws import S3Bucket
from servers import Reply, Scripted, Seen

from prefect_nanobanana import BucketNotUsable, ImageNotCopied, StorageError, StoreRefuses
from prefect_nanobanana.s3 import ObjectStore, PreconditionFailed, StoreUnavailable
from prefect_nanobanana.s3._capabilities import Capabilities

MakeBucket = Callable[..., S3Bucket]
JSON = "application/json"


@pytest.fixture
def store() -> Iterator[MemoryS3]:
    with MemoryS3() as server:
        yield server


@pytest.fixture
def host() -> Iterator[Scripted]:
    with Scripted(lambda _: Reply(PNG)) as server:
        yield server


def _error(status: int, code: str, message: str = "said so", more: str = "") -> Reply:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return Reply(body.encode(), status, {"Content-Type": "application/xml"})


# Lists.


def _listing(keys: list[str], more: str) -> Reply:
    items = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys)
    return Reply(f"<ListBucketResult>{more}{items}</ListBucketResult>".encode())


class _FirstVersion:
    """Lists as stores did before version 2: pages of two, which go on behind a marker.

    Args:
        keys: What there is.
        refuses: What it answers to version 2, if it does not take it for version 1.
        names_next: Whether it says where the next page begins.
    """

    def __init__(self, keys: list[str], refuses: Reply | None, names_next: bool) -> None:
        self._keys, self._refuses, self._names_next = keys, refuses, names_next

    def __call__(self, seen: Seen) -> Reply | None:
        query = parse_qs(urlsplit(seen.path).query)
        if "list-type" in query and self._refuses is not None:
            return self._refuses
        marker = query.get("marker", [""])[0]
        left = [key for key in self._keys if key > marker]
        cut = len(left) > 2
        following = f"<NextMarker>{left[1]}</NextMarker>" if cut and self._names_next else ""
        return _listing(left[:2], f"<IsTruncated>{str(cut).lower()}</IsTruncated>{following}")


REFUSALS_OF_LISTS = {
    "ignored": None,
    "501": _error(501, "NotImplemented", "list-type=2 is not implemented"),
    "named": _error(400, "InvalidArgument", "unknown parameter list-type"),
    "405": _error(405, "MethodNotAllowed"),
}


@pytest.mark.parametrize("names_next", [True, False])
@pytest.mark.parametrize("case", REFUSALS_OF_LISTS)
def test_a_store_that_knows_the_first_version_of_lists_is_listed_whole(
    make_bucket: MakeBucket, store: MemoryS3, case: str, names_next: bool
) -> None:
    keys = [f"b/records/{n}.json" for n in range(7)]
    store.refuse = _FirstVersion(keys, REFUSALS_OF_LISTS[case], names_next)
    opened = ObjectStore(make_bucket(endpoint_url=store.url))
    assert [key for key, *_ in opened.keys("b/")] == keys


def test_a_list_that_goes_round_in_circles_is_no_list(make_bucket: MakeBucket, store: MemoryS3) -> None:
    tokens = ["one", "two"]

    def answer(_: Seen) -> Reply:
        tokens.reverse()
        token = f"<NextContinuationToken>{tokens[0]}</NextContinuationToken>"
        return _listing(["b/x"], f"<IsTruncated>true</IsTruncated>{token}")

    store.refuse = answer
    with pytest.raises(StorageError, match="breaks off: the store does not say how"):
        list(ObjectStore(make_bucket(endpoint_url=store.url)).keys("b/"))


@pytest.mark.parametrize("prefix", ["été/records/", "a b+c/records/", "100 %/", "ไทย/"])
def test_keys_that_are_listed_in_escapes_without_saying_so(
    make_bucket: MakeBucket, store: MemoryS3, prefix: str
) -> None:
    store.refuse = lambda _: _listing([quote(f"{prefix}x.json")], "<IsTruncated>false</IsTruncated>")
    opened = ObjectStore(make_bucket(endpoint_url=store.url))
    assert [key for key, *_ in opened.keys(prefix)] == [f"{prefix}x.json"]


# What passes.

PASSING = {
    "R2": _error(429, "TooManyRequests", "Reduce your concurrent request rate for the same object"),
    "Google": _error(429, "SlowDown", "Please reduce your request rate."),
    "no words": Reply(b"", 429),
    "a proxy": Reply(b"rate limit", 429, {"Retry-After": "0"}),
    "a page": Reply(b"<html><title>1015</title>", 429),
    "a race": _error(409, "ConditionalRequestConflict"),
    "OVH": _error(409, "OperationAborted", "A conflicting conditional operation is in progress"),
    "408": Reply(b"", 408),
    "520": Reply(b"<html>unknown error", 520),
    "524": Reply(b"<html>a timeout occurred", 524),
    "509": _error(509, "BandwidthLimit"),
}
CALLS: dict[str, Callable[[ObjectStore], Any]] = {
    "put": lambda opened: opened.put("r.json", b"1", JSON, IfNoneMatch="*"),
    "read": lambda opened: opened.find("r.json"),
    "list": lambda opened: list(opened.keys("r")),
    "head": lambda opened: opened.head("r.json"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", PASSING)
def test_what_passes_is_tried_again(
    make_bucket: MakeBucket, store: MemoryS3, case: str, call: str
) -> None:
    left = [2]

    def refuse(_: Seen) -> Reply | None:
        left[0] -= 1
        return PASSING[case] if left[0] >= 0 else None

    store.refuse = refuse
    if call == "head" and PASSING[case].status == 409:
        return  # it has no body that could say so
    CALLS[call](ObjectStore(make_bucket(endpoint_url=store.url)))
    assert len(store.seen) == 3


@pytest.mark.parametrize("case", PASSING)
def test_what_does_not_pass_in_time_may_pass_later(
    make_bucket: MakeBucket, store: MemoryS3, case: str
) -> None:
    store.refuse = lambda _: PASSING[case]
    block = make_bucket(endpoint_url=store.url)
    block.credentials.aws_client_parameters.config = {"retries": {"total_max_attempts": 1}}
    with pytest.raises(StoreUnavailable):
        CALLS["put"](ObjectStore(block))
    assert len(store.seen) == 1


# Conditions.


@pytest.mark.parametrize(
    ("status", "body"), [(412, b""), (412, b"<html>"), (304, b""), (409, b""), (409, b"exists")]
)
def test_a_condition_that_fails_in_whatever_words(
    make_bucket: MakeBucket, store: MemoryS3, status: int, body: bytes
) -> None:
    store.refuse = lambda _: Reply(body, status)
    opened = ObjectStore(make_bucket(endpoint_url=store.url))
    with pytest.raises(PreconditionFailed):
        opened.put("r.json", b"1", JSON, IfNoneMatch="*")
    assert opened.capabilities.conditional_writes is True


def test_what_should_not_have_changed_and_is_gone_has_changed(
    make_bucket: MakeBucket, store: MemoryS3
) -> None:
    """As AWS answers `If-Match` where nothing is."""
    store.refuse = lambda _: _error(404, "NoSuchKey")
    opened = ObjectStore(make_bucket(endpoint_url=store.url))
    with pytest.raises(PreconditionFailed):
        opened.put("r.json", b"1", JSON, IfMatch='"x"')
    with pytest.raises(StorageError, match="NoSuchKey"):
        opened.put("r.json", b"1", JSON)


# Forms of errors.

NAMESPACE = "xmlns='http://s3.amazonaws.com/doc/2006-03-01/'"
ERRORS = {
    "bare": "<Error><Code>QuotaExceeded</Code><Message>All of it &amp; more</Message></Error>",
    "namespace": f"<?xml version='1.0'?><Error {NAMESPACE}><Code>QuotaExceeded</Code>"
    "<Message>All of it &amp; more</Message></Error>",
    "prefix": "<s3:Error xmlns:s3='urn:x'><s3:Code>QuotaExceeded</s3:Code>"
    "<s3:Message>All of it &amp; more</s3:Message></s3:Error>",
    "BOM": "\ufeff<?xml version='1.0'?><Error><Code>QuotaExceeded</Code>"
    "<Message>All of it &amp; more</Message></Error>",
    "line before": "\n<?xml version='1.0'?>\n<Error><Code>QuotaExceeded</Code>"
    "<Message>All of it &amp; more</Message></Error>",
    "wrapped": "<ErrorResponse><Error><Code>QuotaExceeded</Code>"
    "<Message>All of it &amp; more</Message></Error></ErrorResponse>",
    "JSON": '{"Code": "QuotaExceeded", "Message": "All of it & more"}',
    "nested JSON": '{"error": {"code": "QuotaExceeded", "message": "All of it & more"}}',
    "cut": "<Error><Code>QuotaExceeded</Code><Message>All of it &amp; more",
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_is_read_in_whatever_form_it_comes(
    make_bucket: MakeBucket, store: MemoryS3, case: str
) -> None:
    store.refuse = lambda _: Reply(ERRORS[case].encode(), 403, {"Content-Type": "application/xml"})
    with pytest.raises(StoreRefuses) as caught:
        CALLS["put"](ObjectStore(make_bucket(endpoint_url=store.url)))
    assert caught.value.answer == "403 QuotaExceeded: All of it & more"


@pytest.mark.parametrize("body", ["<Error><Code>X</Code><Message>{}</Message></Error>", "{}"])
def test_a_large_error_is_short(make_bucket: MakeBucket, store: MemoryS3, body: str) -> None:
    store.refuse = lambda _: Reply(body.format("http://u:hush@x//" * 300_000).encode(), 400)
    with pytest.raises(StorageError) as caught:
        CALLS["put"](ObjectStore(make_bucket(endpoint_url=store.url)))
    assert len(str(caught.value)) < 400
    assert "hush" not in str(caught.value)


# Stores that are full, and options that a store does not take.

FULL = {
    "Backblaze": _error(403, "AccessDenied", "Cannot upload files, storage cap exceeded. See the Caps"),
    "Garage": _error(403, "AccessDenied", "Bucket size quota reached: 12 / 12"),
    "Garage's objects": _error(403, "AccessDenied", "Object quota is reached"),
    "Ozone": _error(403, "QUOTA_EXCEEDED", "The volume is out of space"),
    "a disk": _error(500, "InternalError", "write: no space left on device"),
    "a quota of the disk": _error(500, "InternalError", "write: disk quota exceeded"),
    "JSON": Reply(b'{"statusCode":"413","error":"Payload too large"}', 400),
}


@pytest.mark.parametrize("case", FULL)
def test_a_store_that_is_full_in_other_words(
    make_bucket: MakeBucket, store: MemoryS3, case: str
) -> None:
    store.refuse = lambda _: FULL[case]
    block = make_bucket(endpoint_url=store.url)
    block.credentials.aws_client_parameters.config = {"retries": {"total_max_attempts": 1}}
    with pytest.raises(StoreRefuses, match="takes no more of this"):
        CALLS["put"](ObjectStore(block))


NAMED = {
    "Backblaze's tags": (
        _error(400, "InvalidArgument", "Unsupported header 'x-amz-tagging' received for this API call."),
        "tags",
    ),
    "R2's tags": (
        _error(501, "NotImplemented", "Header 'x-amz-tagging' with value 'a=b' not implemented"),
        "tags",
    ),
    "Linode's ACL": (
        _error(
            501,
            "NotImplemented",
            "A header that you provided is not implemented",
            "<Header>x-amz-acl</Header>",
        ),
        "acl",
    ),
    "Backblaze's ACL": (
        _error(400, "InvalidArgument", "Unsupported value for canned acl 'public-read'"),
        "acl",
    ),
    "a storage class": (
        _error(501, "NotImplemented", "no such header", "<Header>x-amz-storage-class</Header>"),
        "storage_class",
    ),
    "MinIO's encryption": (
        _error(501, "NotImplemented", "Server side encryption specified but KMS is not configured"),
        "encryption",
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_an_option_that_a_store_does_not_take_is_named(
    make_bucket: MakeBucket, store: MemoryS3, case: str
) -> None:
    reply, option = NAMED[case]
    store.refuse = lambda _: reply
    opened = ObjectStore(make_bucket(endpoint_url=store.url))
    with pytest.raises(BucketNotUsable, match=f"correct {option}, among the storage options"):
        CALLS["put"](opened)
    assert opened.capabilities == Capabilities(), "it says nothing of conditions and checksums"
    assert len(store.seen) == 1


# Images.


def _without_metadata(_: Seen, reply: Reply) -> None:
    for name in [name for name in reply.headers if name.startswith("x-amz-meta-")]:
        del reply.headers[name]


def test_a_store_that_keeps_no_metadata_keeps_images(
    make_bucket: MakeBucket, store: MemoryS3, host: Scripted
) -> None:
    store.change = _without_metadata
    bucket = make_bucket(endpoint_url=store.url)
    image = copy_image(bucket, host.url).image
    assert copy_image(bucket, host.url).image == image
    assert len(store.asked("PUT")) == 1
    store.objects[image.key] = b"somebody's", {}
    with pytest.raises(ImageNotCopied, match="holds another object"):
        copy_image(bucket, host.url)
    assert store.objects[image.key][0] == b"somebody's"


def test_a_store_that_shows_an_image_a_moment_late(
    make_bucket: MakeBucket, store: MemoryS3, host: Scripted
) -> None:
    late = [2]

    def refuse(seen: Seen) -> Reply | None:
        if seen.method == "GET" and late[0]:
            late[0] -= 1
            return _error(404, "NoSuchKey")
        return None

    store.refuse = refuse
    store.change = lambda _, reply: reply.headers.pop("ETag", None)  # so that it is read back
    image = copy_image(make_bucket(endpoint_url=store.url), host.url, retry=20).image
    assert store.objects[image.key][0] == PNG
    assert late == [0]


@pytest.mark.parametrize(
    ("bucket", "endpoint"),
    [
        ("pictures", "https://pictures.fra1.digitaloceanspaces.com"),
        ("pictures", "https://pictures.0123abcd.r2.cloudflarestorage.com"),
        ("pictures", "https://pictures.storage.googleapis.com"),
        ("pictures", "https://pictures.oss-cn-hangzhou.aliyuncs.com"),
        ("pictures", "https://pictures.eu-central-1.linodeobjects.com"),
        ("pictures", "https://pictures.s3.eu-central-003.backblazeb2.com:443"),
    ],
)
def test_the_bucket_in_the_endpoints_host(make_bucket: MakeBucket, bucket: str, endpoint: str) -> None:
    without = endpoint.replace(f"{bucket}.", "", 1)
    with pytest.raises(BucketNotUsable, match=f"in its host: write {without} in"):
        list(ObjectStore(make_bucket(endpoint_url=endpoint, bucket_name=bucket)).keys("x"))
