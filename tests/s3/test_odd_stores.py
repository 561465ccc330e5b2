"""Stores as people have them: what is optional, what is refused, and what is no store at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from copies import PNG, copy_image
from memory_s3 import MemoryS3
from prefect_aws import S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from servers import Reply, Scripted, Seen

from prefect_nanobanana import BucketNotUsable, StorageError
from prefect_nanobanana.s3 import ObjectStore, PreconditionFailed
from prefect_nanobanana.s3._capabilities import Capabilities

MakeBucket = Callable[..., S3Bucket]
Change = Callable[[Seen, Reply], Any]
JSON = "application/json"


@pytest.fixture
def store() -> Iterator[MemoryS3]:
    with MemoryS3() as server:
        yield server


@pytest.fixture
def host() -> Iterator[Scripted]:
    with Scripted(lambda _: Reply(PNG)) as server:
        yield server


def _error(status: int, code: str, message: str, more: str = "") -> Reply:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return Reply(body.encode(), status, {"Content-Type": "application/xml"})


def _without_tags(of: str) -> Change:
    def change(seen: Seen, reply: Reply) -> None:
        if seen.method in of.split():
            reply.headers.pop("ETag", None)

    return change


def _weak_tags(_: Seen, reply: Reply) -> None:
    if "ETag" in reply.headers:
        reply.headers["ETag"] = "W/" + reply.headers["ETag"]


def _without_length(seen: Seen, reply: Reply) -> None:
    if seen.method == "HEAD":
        reply.length = -1


OPTIONAL: dict[str, tuple[Change, list[str], list[str]]] = {
    "all there": (lambda *_: None, ["HEAD", "PUT"], ["HEAD"]),
    "no tag of a put": (_without_tags("PUT"), ["HEAD", "PUT", "GET"], ["HEAD"]),
    "no tag of a HEAD": (_without_tags("HEAD"), ["HEAD", "PUT"], ["HEAD", "GET"]),
    "no tags": (_without_tags("PUT HEAD GET"), ["HEAD", "PUT", "GET"], ["HEAD", "GET"]),
    "weak tags": (_weak_tags, ["HEAD", "PUT"], ["HEAD"]),
    "no length of a HEAD": (_without_length, ["HEAD", "PUT"], ["HEAD"]),
}


@pytest.mark.parametrize("case", OPTIONAL)
def test_optional_headers_are_optional(
    make_bucket: MakeBucket, store: MemoryS3, host: Scripted, case: str
) -> None:
    store.change, first, again = OPTIONAL[case]
    bucket = make_bucket(endpoint_url=store.url)
    image = copy_image(bucket, host.url).image
    assert [seen.method for seen in store.seen] == first
    assert store.objects[image.key][0] == PNG
    store.seen.clear()
    assert copy_image(bucket, host.url).image == image
    assert [seen.method for seen in store.seen] == again, "it is there, and not sent again"


@pytest.mark.parametrize("case", OPTIONAL)
def test_records_where_headers_are_missing(make_bucket: MakeBucket, store: MemoryS3, case: str) -> None:
    """Written as the ledger writes: only if new, then only if nobody has changed it."""
    store.change = OPTIONAL[case][0]
    opened = ObjectStore(make_bucket(endpoint_url=store.url))
    first = opened.put("r.json", b"1", JSON, IfNoneMatch="*").etag
    second = opened.put("r.json", b"2", JSON, IfMatch=first).etag
    assert opened.find("r.json") == (b"2", second)
    if case == "no tags":
        assert (first, second, opened.capabilities.conditional_writes) == ("", "", False)
        return
    assert second
    assert store.asked("PUT")[-1].headers["if-match"] == first.removeprefix("W/")
    with pytest.raises(PreconditionFailed, match=r"r\.json is there already, or has changed \(Pre"):
        opened.put("r.json", b"3", JSON, IfMatch=first)
    with pytest.raises(PreconditionFailed):
        opened.put("r.json", b"3", JSON, IfNoneMatch="*")
    assert opened.capabilities.conditional_writes is True
    assert store.objects["r.json"][0] == b"2"


# What a store does not know.

CHECKSUM_REFUSED = {
    "Backblaze": _error(400, "InvalidArgument", "Unsupported header 'x-amz-checksum-sha256' received"),
    "named apart": _error(
        501, "NotImplemented", "A header is not implemented", "<Header>x-amz-checksum-sha256</Header>"
    ),
    "its algorithm": _error(400, "InvalidRequest", "x-amz-sdk-checksum-algorithm is not supported"),
    "in capitals": _error(400, "400", "unknown header: X-Amz-Checksum-SHA256"),
}
CONDITION_REFUSED = {
    "named": _error(400, "InvalidArgument", "Unsupported header 'If-None-Match' received for this API"),
    "named apart": _error(400, "NotImplemented", "not implemented", "<Header>If-None-Match</Header>"),
    "501": _error(501, "NotImplemented", "A header you provided implies functionality"),
    "text": Reply(b"header If-None-Match / If-Match not allowed", 400),
}


@pytest.mark.parametrize("case", CHECKSUM_REFUSED)
def test_a_store_that_refuses_checksums_can_be_used(
    make_bucket: MakeBucket, store: MemoryS3, host: Scripted, case: str
) -> None:
    def refuse(seen: Seen) -> Reply | None:
        named = any(name.startswith(("x-amz-checksum", "x-amz-sdk")) for name in seen.headers)
        return CHECKSUM_REFUSED[case] if named else None

    store.refuse = refuse
    opened = ObjectStore(make_bucket(endpoint_url=store.url))
    opened.put("a.json", b"{}", JSON)
    assert len(store.asked("PUT")) == 2
    assert opened.capabilities == Capabilities(accepts_checksums=False)
    opened.put("b.json", b"{}", JSON)
    assert opened.find("b.json") == (b"{}", store.objects["b.json"][1]["ETag"])
    assert len(store.asked("PUT")) == 3, "it is remembered"
    image = copy_image(make_bucket(endpoint_url=store.url), host.url).image
    assert store.objects[image.key][0] == PNG


@pytest.mark.parametrize("case", CONDITION_REFUSED)
@pytest.mark.parametrize("checksums_too", [False, True])
def test_a_store_that_refuses_conditions_can_be_used(
    make_bucket: MakeBucket, store: MemoryS3, case: str, checksums_too: bool
) -> None:
    def refuse(seen: Seen) -> Reply | None:
        if checksums_too and "x-amz-checksum-sha256" in seen.headers:
            return CHECKSUM_REFUSED["Backblaze"]
        return CONDITION_REFUSED[case] if {"if-none-match", "if-match"} & set(seen.headers) else None

    store.refuse = refuse
    opened = ObjectStore(make_bucket(endpoint_url=store.url))
    tag = opened.put("a.json", b"1", JSON, IfNoneMatch="*").etag
    opened.put("a.json", b"2", JSON, IfMatch=tag)
    assert store.objects["a.json"][0] == b"2"
    known = opened.capabilities
    assert (known.conditional_writes, known.accepts_conditions) == (False, False)
    assert known.accepts_checksums is not checksums_too
    assert len(store.asked("PUT")) == (4 if checksums_too else 3)


@pytest.mark.parametrize(
    "answer",
    [
        _error(403, "AccessDenied", "explicit deny: If-None-Match is missing"),
        _error(400, "InvalidArgument", "the tag x-amz-tagging is wrong"),
        _error(400, "BadDigest", "the x-amz-checksum-sha256 did not match"),
    ],
)
def test_what_is_refused_for_another_reason_is_not_left_out(
    make_bucket: MakeBucket, store: MemoryS3, answer: Reply
) -> None:
    store.refuse = lambda _: answer
    opened = ObjectStore(make_bucket(endpoint_url=store.url))
    with pytest.raises(StorageError):
        opened.put("a.json", b"{}", JSON, IfNoneMatch="*")
    assert all("if-none-match" in seen.headers for seen in store.asked("PUT"))
    assert opened.capabilities == Capabilities()


@pytest.mark.parametrize("wanted", ["when_supported", "when_required"])
def test_what_the_block_says_of_checksums_is_done(
    make_bucket: MakeBucket, store: MemoryS3, host: Scripted, wanted: str
) -> None:
    bucket = make_bucket(endpoint_url=store.url)
    bucket.credentials.aws_client_parameters = AwsClientParameters(
        endpoint_url=store.url,
        config={"request_checksum_calculation": wanted, "response_checksum_validation": wanted},
    )
    copy_image(bucket, host.url)
    ObjectStore(bucket).put("a.json", b"{}", JSON)
    ObjectStore(bucket).find("a.json")
    carried = [
        any(name.startswith(("x-amz-checksum", "x-amz-sdk", "x-amz-trailer")) for name in seen.headers)
        for seen in store.seen
    ]
    assert carried == [wanted == "when_supported"] * len(carried)
    assert len(carried) >= 4


@pytest.mark.parametrize("token", ["", "<NextContinuationToken>again</NextContinuationToken>"])
def test_a_listing_that_breaks_off_is_no_short_one(
    make_bucket: MakeBucket, store: MemoryS3, token: str
) -> None:
    """Records that are not seen would be paid for again."""
    body = f"<ListBucketResult><IsTruncated>true</IsTruncated>{token}</ListBucketResult>"
    store.refuse = lambda _: Reply(body.encode())
    with pytest.raises(StorageError, match="breaks off: the store does not say how"):
        list(ObjectStore(make_bucket(endpoint_url=store.url)).keys("b/"))


# Policies.


def _demand(header: str, value: str | None = None) -> Callable[[Seen], Reply | None]:
    def refuse(seen: Seen) -> Reply | None:
        has = header in seen.headers if value is None else seen.headers.get(header) == value
        said = f"not authorized to perform: s3:PutObject, explicit deny without {header}"
        return _error(403, "AccessDenied", said) if seen.method == "PUT" and not has else None

    return refuse


def _write_once(store: MemoryS3) -> Callable[[Seen], Reply | None]:
    def refuse(seen: Seen) -> Reply | None:
        there = any(seen.path.startswith(f"/pictures/{key}") for key in store.objects)
        denied = seen.method == "PUT" and there
        return _error(403, "AccessDenied", "object is WORM protected") if denied else None

    return refuse


def test_policies_are_met_with_the_stores_own_words(make_bucket: MakeBucket, store: MemoryS3) -> None:
    opened = ObjectStore(make_bucket(endpoint_url=store.url))
    store.refuse = _demand("if-none-match")
    tag = opened.put("a.json", b"1", JSON, IfNoneMatch="*").etag
    plain: dict[str, Any] = {}
    for options in (plain, {"IfMatch": tag}):
        with pytest.raises(BucketNotUsable, match="explicit deny without if-none-match"):
            opened.put("a.json", b"2", JSON, **options)
    store.refuse = _demand("x-amz-server-side-encryption", "aws:kms")
    with pytest.raises(BucketNotUsable, match="explicit deny without x-amz-server-side-encryption"):
        opened.put("b.json", b"1", JSON, IfNoneMatch="*")
    store.refuse = _write_once(store)
    tag = opened.put("c.json", b"1", JSON, IfNoneMatch="*").etag
    with pytest.raises(BucketNotUsable, match="object is WORM protected"):
        opened.put("c.json", b"2", JSON, IfMatch=tag)
    assert {key: body for key, (body, _) in store.objects.items()} == {"a.json": b"1", "c.json": b"1"}
