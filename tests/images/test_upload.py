"""How an image gets into a store: once, whole, and over nothing else."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from copies import PNG, copy_image, of_images, opaque
from prefect_aws import S3Bucket
from servers import FaultyS3, Reply, Scripted, Seen, s3_error

from prefect_nanobanana import BucketNotUsable, ImageNotCopied, StorageOptions
from prefect_nanobanana.images import _body as _bodies
from prefect_nanobanana.images._copier import Copier
from prefect_nanobanana.images._listing import LISTED_SECONDS, Listing
from prefect_nanobanana.images._upload import FEW, PUT_TRIES
from prefect_nanobanana.s3._capabilities import Capabilities
from prefect_nanobanana.s3._store import ObjectStore
from prefect_nanobanana.sandbox.pictures import draw

MakeBucket = Callable[..., S3Bucket]


def test_the_same_image_is_not_stored_again(bucket: S3Bucket, folder: Path) -> None:
    with Scripted(lambda _: Reply(PNG)) as host:
        one = copy_image(bucket, host.url).image
        stamp = (folder / "images/x.png").stat().st_mtime_ns
        assert copy_image(bucket, host.url).image == one
    assert (folder / "images/x.png").stat().st_mtime_ns == stamp


def test_another_object_is_never_overwritten(bucket: S3Bucket, folder: Path) -> None:
    opened = ObjectStore(bucket)
    opened.put(opened.key("images/x.png"), b"somebody's", "text/plain")
    with (
        Scripted(lambda _: Reply(PNG)) as host,
        pytest.raises(ImageNotCopied, match="holds another object"),
    ):
        copy_image(bucket, host.url)
    assert (folder / "images/x.png").read_bytes() == b"somebody's"


def test_what_is_listed_is_the_folder(bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def few(_: ObjectStore, prefix: str) -> set[str]:
        asked.append(prefix)
        return {"x.png"}

    monkeypatch.setattr(ObjectStore, "few", few)
    listing = Listing(ObjectStore(bucket))
    taken = [listing.take(key) for key in ("x.png", "a/b/x.png", "a/b/x.png")]
    assert taken == [False, True, False]
    assert asked == ["", "a/b/"]


def test_who_overwrites_ours_is_not_overwritten(make_bucket: MakeBucket, s3: Any) -> None:
    """Between our put and a look at what came of it, which some stores need."""
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        bucket = make_bucket(endpoint_url=proxy.url)
        direct = ObjectStore(bucket.model_copy(update={"credentials": make_bucket().credentials}))

        def somebody_else() -> None:
            if proxy.seen[-1].method == "PUT":
                direct.put(direct.key("images/x.png"), b"somebody's", "text/plain")

        proxy.alter, proxy.after = opaque, somebody_else
        with pytest.raises(ImageNotCopied, match="holds another object"):
            copy_image(bucket, host.url)
        assert len(of_images(proxy, "PUT")) == 1
    assert (s3.folder / direct.key("images/x.png")).exists() is False
    assert direct.find(direct.key("images/x.png")) is not None


def test_what_a_tag_proves_is_not_read_again(make_bucket: MakeBucket, s3: Any) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        bucket = make_bucket(endpoint_url=proxy.url)
        copy_image(bucket, host.url)
        copy_image(bucket, host.url)
        assert (len(of_images(proxy, "PUT")), of_images(proxy, "GET")) == (1, [])


def test_what_no_tag_proves_is_read_again(make_bucket: MakeBucket, s3: Any) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        proxy.alter = opaque
        bucket = make_bucket(endpoint_url=proxy.url)
        copy_image(bucket, host.url)
        assert (len(of_images(proxy, "PUT")), len(of_images(proxy, "GET"))) == (1, 1)
        copy_image(bucket, host.url)
        assert (len(of_images(proxy, "PUT")), len(of_images(proxy, "GET"))) == (1, 2)


@pytest.mark.parametrize("tag", ['"{}"', "{}", '"{}" '])
@pytest.mark.parametrize("write", [str.lower, str.upper])
def test_what_the_host_says_is_not_worked_out_again(
    bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, tag: str, write: Callable[[str], str]
) -> None:
    """Where the image's host and the store make their tags of its MD5, as object stores do."""
    worked_out = property(lambda _: pytest.fail("the MD5 was worked out"))
    monkeypatch.setattr(_bodies.Body, "md5", worked_out)
    told = {"ETag": tag.format(write(hashlib.md5(PNG).hexdigest()))}
    with Scripted(lambda _: Reply(PNG, 200, told)) as host:
        copy_image(bucket, host.url)
        copy_image(bucket, host.url)
        told.clear()
        with pytest.raises(pytest.fail.Exception):
            copy_image(bucket, host.url)


WRONG = "0" * 32


@pytest.mark.parametrize("tag", [f'"{WRONG}"', f'W/"{WRONG}"', '"of-its-own"', '""', ""])
def test_a_host_with_tags_of_another_kind(make_bucket: MakeBucket, s3: Any, tag: str) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG, 200, {"ETag": tag})) as host:
        bucket = make_bucket(endpoint_url=proxy.url)
        copy_image(bucket, host.url)
        assert (len(of_images(proxy, "PUT")), of_images(proxy, "GET")) == (1, [])
        if tag != f'"{WRONG}"':  # that two say the same is a proof if it can be an MD5
            proxy.alter = lambda _, headers: headers.update(Etag=tag)
            copy_image(bucket, host.url, "images/y")
            assert len(of_images(proxy, "GET")) == 1


@pytest.mark.parametrize("times", [1, 99])
def test_a_store_that_keeps_other_bytes(make_bucket: MakeBucket, s3: Any, times: int) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        bucket = make_bucket(endpoint_url=proxy.url)
        path = s3.folder / bucket.bucket_name / bucket.bucket_folder / "images/x.png"

        def damaged(seen: Seen) -> bytes:
            flip = seen.method == "PUT" and len(of_images(proxy, "PUT")) <= times
            return seen.body[:-1] + b"?" if flip else seen.body

        proxy.alter, proxy.tamper = opaque, damaged
        if times == 1:
            copy_image(bucket, host.url)
            assert path.read_bytes() == PNG
            assert len(of_images(proxy, "PUT")) == 2
        else:
            with pytest.raises(ImageNotCopied, match="does not give back the bytes that it was sent"):
                copy_image(bucket, host.url)
            assert len(of_images(proxy, "PUT")) == PUT_TRIES


@pytest.mark.parametrize("told", [{}, {"ETag": f'"{hashlib.md5(PNG).hexdigest()}"'}], ids=["", "tag"])
def test_what_changes_on_the_way_is_sent_again(make_bucket: MakeBucket, s3: Any, told: Any) -> None:
    left = [1]

    def flip(seen: Seen) -> bytes:
        if seen.method == "PUT" and left[0]:
            left[0] -= 1
            return seen.body[:-1] + b"?"
        return seen.body

    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG, 200, told)) as host:
        proxy.tamper = flip
        bucket = make_bucket(endpoint_url=proxy.url)
        copy_image(bucket, host.url, retry=10)
        path = s3.folder / bucket.bucket_name / bucket.bucket_folder / "images/x.png"
        assert path.read_bytes() == PNG


def test_what_an_upload_left_that_was_cut_off_is_stored_again(bucket: S3Bucket, folder: Path) -> None:
    opened = ObjectStore(bucket)
    ours = {"sha256": hashlib.sha256(PNG).hexdigest()}
    opened.put(opened.key("images/x.png"), PNG[:100], "image/png", Metadata=ours)
    with Scripted(lambda _: Reply(PNG)) as host:
        copy_image(bucket, host.url)
    assert (folder / "images/x.png").read_bytes() == PNG


def test_a_store_that_comes_back_gets_what_was_fetched_already(make_bucket: MakeBucket, s3: Any) -> None:
    left = [7]

    def busy(seen: Seen) -> Reply | None:
        if seen.method == "PUT" and left[0]:
            left[0] -= 1  # more than boto3 tries
            return s3_error(503, "SlowDown")
        return None

    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        proxy.fault = busy
        copy_image(make_bucket(endpoint_url=proxy.url), host.url, retry=60)
        assert (len(host.seen), left) == (1, [0])


def test_a_race_is_settled_where_the_store_knows_conditional_writes(
    make_bucket: MakeBucket, moto_url: str
) -> None:
    """All look before any of them stores: one wins, and who has the same bytes has won too."""
    barrier, arrived = threading.Barrier(4), itertools.count()

    def together(seen: Seen) -> None:
        if seen.method == "PUT" and next(arrived) < 4:
            barrier.wait(10)

    results: list[Any] = []
    pictures = [PNG, PNG, draw("other", seed="9", longest=96), PNG]
    with (
        FaultyS3(moto_url) as proxy,
        Scripted(lambda s: Reply(pictures[int(s.path[1:])])) as host,
    ):
        proxy.fault = together
        bucket = make_bucket(endpoint_url=proxy.url)

        def work(number: int) -> None:
            try:
                results.append(copy_image(bucket, f"{host.url}/{number}").image.sha256)
            except ImageNotCopied as error:
                results.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    opened = ObjectStore(make_bucket(endpoint_url=moto_url, bucket_folder=bucket.bucket_folder))
    found = opened.find(opened.key("images/x.png"))
    assert found is not None
    stored = hashlib.sha256(found[0]).hexdigest()
    assert {r for r in results if isinstance(r, str)} == {stored}
    assert len([r for r in results if isinstance(r, ImageNotCopied)]) in (1, 3)


def test_a_store_that_refuses_to_overwrite_is_not_asked_beforehand(
    make_bucket: MakeBucket, moto_url: str
) -> None:
    pictures = {"/one": PNG, "/other": draw("other", seed="9", longest=96)}
    with FaultyS3(moto_url) as proxy, Scripted(lambda seen: Reply(pictures[seen.path])) as host:
        known = Capabilities(conditional_writes=True)
        opened = ObjectStore(make_bucket(endpoint_url=proxy.url), None, known)
        with Copier.for_bucket(opened, ["127.0.0.1"]) as copier:

            def asked(path: str) -> list[str]:
                before = len(proxy.seen)
                copier.copy(f"{host.url}{path}", opened.key("x"))
                return [seen.method for seen in proxy.seen[before:]]

            assert asked("/one") == ["PUT"]
            assert asked("/one") == ["PUT", "HEAD"], "refused, and found to be the same"
            with pytest.raises(ImageNotCopied, match="holds another object, which is not overwritten"):
                asked("/other")
        found = opened.find(opened.key("x.png"))
        assert found is not None
        assert found[0] == PNG


@pytest.mark.parametrize(("expected", "lists"), [(0, False), (FEW, False), (FEW + 1, True)])
def test_few_images_are_not_worth_listing(
    make_bucket: MakeBucket, s3: Any, expected: int, lists: bool
) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        opened = ObjectStore(make_bucket(endpoint_url=proxy.url))
        with Copier.for_bucket(opened, ["127.0.0.1"], expected_images=expected) as copier:
            for name in ("one", "two", "one"):
                copier.copy(host.url, opened.key("images", name))
        asked = [seen.method for seen in proxy.seen]
        assert asked == (["GET", "PUT", "PUT", "HEAD"] if lists else ["HEAD", "PUT"] * 2 + ["HEAD"])


def test_what_was_in_the_folder_is_listed_once(
    make_bucket: MakeBucket, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a store does not refuse to write over an object, or is not known to."""
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        opened = ObjectStore(make_bucket(endpoint_url=proxy.url))

        def asked(copier: Copier, name: str) -> list[str]:
            before = len(proxy.seen)
            copier.copy(host.url, opened.key("images", name))
            return [seen.method for seen in proxy.seen[before:]]

        with _of_many(opened) as copier:
            assert asked(copier, "one") == ["GET", "PUT"]
            assert asked(copier, "two") == ["PUT"]
            assert asked(copier, "one") == ["HEAD"], "this copier took it"
        with _of_many(opened) as copier:
            assert asked(copier, "two") == ["GET", "HEAD"], "it was in the list"
            assert asked(copier, "three") == ["PUT"]
            monkeypatch.setattr(time, "monotonic", _later(LISTED_SECONDS))
            assert asked(copier, "four") == ["HEAD", "PUT"], "the list is old"


def _of_many(opened: ObjectStore) -> Copier:
    return Copier.for_bucket(opened, ["127.0.0.1"], expected_images=99)


def _later(seconds: float, clock: Callable[[], float] = time.monotonic) -> Callable[[], float]:
    return lambda: clock() + seconds


def test_a_folder_with_too_much_in_it_is_asked_key_by_key(make_bucket: MakeBucket, s3: Any) -> None:
    opened = ObjectStore(make_bucket())
    folder = s3.folder / opened.name / opened.folder / "images"

    def put(number: int) -> None:
        opened.put(opened.key("images", f"{number}.png"), b"", "image/png")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(1001)))
    assert opened.few(opened.key("images/")) is None
    assert opened.few(opened.key("images/99")) == {
        opened.key(f"images/{name}.png") for name in (99, *range(990, 1000))
    }
    with Scripted(lambda _: Reply(PNG)) as host, _of_many(opened) as copier:
        with pytest.raises(ImageNotCopied, match="holds another object, which is not overwritten"):
            copier.copy(host.url, opened.key("images/7"))
        copier.copy(host.url, opened.key("images/free"))
    assert ((folder / "7.png").read_bytes(), (folder / "free.png").read_bytes()) == (b"", PNG)


@pytest.mark.parametrize(
    ("verify", "asked"), [("store", ["PUT"]), ("compare", ["PUT", "GET"]), ("auto", ["PUT", "GET"])]
)
def test_a_store_that_checks_what_it_gets_is_believed_if_the_options_say_so(
    make_bucket: MakeBucket, s3: Any, verify: Any, asked: list[str]
) -> None:
    """Then no MD5 is worked out, which takes longer than all else, and nothing is read back."""
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        proxy.alter = opaque
        options = StorageOptions(verify=verify)
        known = Capabilities(conditional_writes=True)
        opened = ObjectStore(make_bucket(endpoint_url=proxy.url), options, known)
        with Copier.for_bucket(opened, ["127.0.0.1"]) as copier:
            copier.copy(host.url, opened.key("images/x"))
        assert [seen.method for seen in proxy.seen] == asked


@pytest.mark.parametrize(
    ("endpoint", "verify", "checks"),
    [
        (None, "auto", True),
        ("https://s3.eu-west-1.amazonaws.com", "auto", True),
        ("https://s3.cn-north-1.amazonaws.com.cn", "auto", True),
        ("https://amazonaws.com.example.org", "auto", False),
        ("https://notamazonaws.com", "auto", False),
        ("https://s3.example.org", "auto", False),
        ("https://s3.example.org", "store", True),
        ("https://s3.eu-west-1.amazonaws.com", "compare", False),
    ],
)
def test_which_store_is_known_to_check(
    make_bucket: MakeBucket, endpoint: str | None, verify: Any, checks: bool
) -> None:
    block = make_bucket(endpoint_url=endpoint)
    block.credentials.region_name = "eu-west-1"
    assert ObjectStore(block, StorageOptions(verify=verify)).checks_uploads is checks


@pytest.mark.parametrize("verify", ["auto", "store"])
def test_what_carries_no_checksum_is_compared(make_bucket: MakeBucket, verify: Any) -> None:
    block = make_bucket(endpoint_url="https://s3.eu-west-1.amazonaws.com")
    opened = ObjectStore(block, StorageOptions(verify=verify), Capabilities(accepts_checksums=False))
    assert not opened.checks_uploads
    block.credentials.aws_client_parameters.config = {"request_checksum_calculation": "when_required"}
    assert not ObjectStore(block, StorageOptions(verify=verify)).checks_uploads


@pytest.mark.parametrize("verify", ["auto", "store", "compare"])
@pytest.mark.parametrize("expected", [1, 99])
def test_no_request_is_signed_wrongly(
    make_bucket: MakeBucket, s3: Any, verify: Any, expected: int
) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        opened = ObjectStore(make_bucket(endpoint_url=proxy.url), StorageOptions(verify=verify))
        with Copier.for_bucket(opened, ["127.0.0.1"], expected_images=expected) as copier:
            for name in range(12):
                copier.copy(host.url, opened.key("images", str(name)))
    sent = [seen for seen in proxy.seen if seen.method == "PUT"]
    assert len(sent) == 12
    assert {seen.headers["x-amz-content-sha256"] for seen in sent} == {hashlib.sha256(PNG).hexdigest()}


def test_stores_without_conditional_writes_are_written_to_plainly(
    make_bucket: MakeBucket, s3: Any
) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        proxy.fault = lambda seen: (
            s3_error(501, "NotImplemented") if "if-none-match" in seen.headers else None
        )
        bucket = make_bucket(endpoint_url=proxy.url)
        copy_image(bucket, host.url)
        path = s3.folder / bucket.bucket_name / bucket.bucket_folder / "images/x.png"
        assert path.read_bytes() == PNG


FAULTS = {
    "SlowDown": s3_error(503, "SlowDown"),
    "500": s3_error(500, "InternalError"),
    "429": s3_error(429, "TooManyRequests"),
    "504": Reply(b"<html>gateway", 504),
    "reset": Reply(reset=True),
    "RequestTimeout": s3_error(400, "RequestTimeout"),
}


@pytest.mark.parametrize(
    ("method", "fault"),
    # Only a body can take too long, and the answer to a HEAD has none to say so.
    [
        *(("HEAD", name) for name in FAULTS if name != "RequestTimeout"),
        *(("PUT", name) for name in FAULTS),
    ],
)
def test_passing_faults_of_the_store_are_tried_again(
    make_bucket: MakeBucket, s3: Any, method: str, fault: str
) -> None:
    left = [2]

    def answer(seen: Seen) -> Reply | None:
        if seen.method == method and left[0]:
            left[0] -= 1
            return FAULTS[fault]
        return None

    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        bucket = make_bucket(endpoint_url=proxy.url)
        if method == "HEAD":
            copy_image(bucket, host.url)  # what is there already is looked at
        proxy.fault = answer
        copy_image(bucket, host.url, retry=20)
        assert left == [0]
        path = s3.folder / bucket.bucket_name / bucket.bucket_folder / "images/x.png"
        assert path.read_bytes() == PNG


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_access_denied_is_final_and_said(make_bucket: MakeBucket, s3: Any, method: str) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        bucket = make_bucket(endpoint_url=proxy.url)
        if method == "HEAD":
            copy_image(bucket, host.url)  # what is there already is looked at
        proxy.fault = lambda seen: s3_error(403, "AccessDenied") if seen.method == method else None
        before = len(proxy.seen)
        with pytest.raises(BucketNotUsable, match="access is denied"):
            copy_image(bucket, host.url)
    assert sum(seen.method == method for seen in proxy.seen[before:]) == 1
