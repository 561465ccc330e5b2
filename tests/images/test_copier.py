"""From a URL to S3: byte for byte, once, and nothing that is no whole picture."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

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
from PIL import Image
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.assume_role_parameters import AssumeRoleParameters
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr
from servers import FaultyS3, Reply, Scripted, Seen, s3_error

from prefect_nanobanana import BucketNotUsable, ImageNotCopied, StorageError, StorageOptions
from prefect_nanobanana._common.naming import safe_metadata, slug
from prefect_nanobanana.images import _body as _bodies
from prefect_nanobanana.images import _copier as storage
from prefect_nanobanana.images import _download
from prefect_nanobanana.images._copier import Copied, Copier
from prefect_nanobanana.images._listing import LISTED_SECONDS, Listing
from prefect_nanobanana.images._picture import NotAPicture, inspect
from prefect_nanobanana.s3 import _boto as _s3_client
from prefect_nanobanana.s3._errors import StoreUnavailable, problem
from prefect_nanobanana.s3._store import ObjectStore
from prefect_nanobanana.sandbox.pictures import draw

MakeBucket = Callable[..., S3Bucket]
PNG = draw("a cat", seed="1", longest=96)
JPEG = draw("a dog", seed="2", longest=96, image_format="jpeg")
WEBP = draw("a bird", seed="3", longest=96, image_format="webp")


def _refusal(code: str, status: int, operation: str = "PutObject") -> ClientError:
    details: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(details, operation)


def _gif() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(out, "GIF")
    return out.getvalue()


def _copy(
    bucket: S3Bucket,
    url: str,
    key: str = "images/x",
    retry: float = 0.3,
    options: StorageOptions | None = None,
    thumbnail: bool = False,
    **metadata: str,
) -> Any:
    opened = ObjectStore(bucket, options)
    with Copier(opened, ["127.0.0.1"], retry_for_seconds=retry) as copier:
        return copier.copy(url, opened.key(key), metadata, thumbnail=thumbnail)


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("content", "kind", "extension"),
    [
        (PNG, "image/png", "png"),
        (JPEG, "image/jpeg", "jpg"),
        (WEBP, "image/webp", "webp"),
        (_gif(), "image/gif", "gif"),
    ],
    ids=["png", "jpeg", "webp", "gif"],
)
def test_stored_byte_for_byte_with_type_and_extension_of_its_bytes(
    bucket: S3Bucket, folder: Path, content: bytes, kind: str, extension: str
) -> None:
    misleading = {"Content-Type": "text/plain"}
    with Scripted(lambda _: Reply(content, 200, misleading)) as host:
        url = host.url + "/picture.bmp?sig=hush"
        copied = _copy(bucket, url, thumbnail=True, prompt="Käse", model="m")
        again = _copy(bucket, url, prompt="Käse", model="m")
    image = copied.image
    assert again == Copied(image, "")
    assert (folder / f"images/x.{extension}").read_bytes() == content
    assert image.sha256 == hashlib.sha256(content).hexdigest()
    assert (image.content_type, image.size_bytes) == (kind, len(content))
    assert image.uri == f"s3://{bucket.bucket_name}/{image.key}"
    assert image.key == f"{bucket.bucket_folder}/images/x.{extension}"
    assert (image.width, image.height) == Image.open(io.BytesIO(content)).size
    assert "hush" not in image.model_dump_json()
    assert copied.thumbnail.startswith("data:image/webp;base64,")
    head = ObjectStore(bucket).client.head_object(Bucket=bucket.bucket_name, Key=image.key)
    assert head["ContentType"] == kind
    told = {name.lower(): value for name, value in head["Metadata"].items()}
    assert told == {"sha256": image.sha256, "prompt": "K%C3%A4se", "model": "m"}


def test_a_prompt_of_any_length_goes_into_metadata(bucket: S3Bucket) -> None:
    with Scripted(lambda _: Reply(PNG)) as host:
        copied = _copy(bucket, host.url, prompt="a lighthouse in fog, " * 200, model="m" * 60)
    head = ObjectStore(bucket).client.head_object(Bucket=bucket.bucket_name, Key=copied.image.key)
    told = {name.lower(): value for name, value in head["Metadata"].items()}
    assert told["prompt"].startswith("a lighthouse in fog, a lighthouse")


def test_what_the_image_host_is_told(bucket: S3Bucket) -> None:
    def answer(seen: Seen) -> Reply:
        if seen.path == "/1":
            return Reply(b"", 302, {"Location": "/2", "Set-Cookie": "a=b"})
        return Reply(PNG)

    with Scripted(answer) as host:
        _copy(bucket, host.url + "/1")
    for seen in host.seen:
        assert seen.headers["user-agent"].startswith("Mozilla/5.0 (compatible; prefect-nanobanana/")
        assert seen.headers["accept-encoding"] == "identity"
        assert not {"authorization", "cookie", "referer"} & set(seen.headers)


def _bomb() -> bytes:
    """A tiny PNG that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


BAD: dict[str, tuple[Reply, str]] = {
    "truncated png": (Reply(PNG[:-200]), "cut short"),
    "png without its end": (Reply(PNG[:-12]), "cut short"),
    "truncated jpeg": (Reply(JPEG[:-100]), "cut short"),
    "truncated webp": (Reply(WEBP[:-50]), "cut short"),
    "png with a hole": (Reply(PNG[:500] + bytes(100) + PNG[600:]), "broken"),
    "empty": (Reply(b""), "the body is empty"),
    "html at 200": (Reply(b"<!doctype html><p>Not yet"), "HTML page"),
    "json at 200": (Reply(b'{"error": "gone"}'), "JSON"),
    "unknown kind": (Reply(b"BM" + bytes(100)), "no picture of a known kind"),
    "bomb": (Reply(_bomb()), "too many"),
    "cut, with a length": (
        Reply(PNG[:-200], length=len(PNG)),
        r"ProtocolError: Connection broken: Incomplete\w+\([^)]*\)\)$",
    ),
    "a length that is too small": (Reply(PNG, length=len(PNG) - 50), "cut short"),
    "cut, without a length": (Reply(PNG[:-200], length=-1), "cut short"),
    "404": (Reply(b"", 404), "answered 404"),
    "403": (Reply(b"", 403), "answered 403"),
    "410": (Reply(b"", 410), "answered 410"),
    "206": (Reply(PNG, 206), "answered 206"),
    "500": (Reply(b"", 500), "answered 500"),
    "gzip": (Reply(zlib.compress(PNG)[:-9], 200, {"Content-Encoding": "deflate"}), "compressed"),
    "odd headers": (Reply(b"", 404, {"X-Who": "Zo\xeb", "Set-Cookie": "a=b"}), "answered 404"),
    "reset": (Reply(reset=True), "ProtocolError: Connection aborted. .*reset by peer"),
    "loop": (Reply(b"", 302, {"Location": "/"}), "redirect"),
    "ftp": (Reply(b"", 302, {"Location": "ftp://host/x"}), "not an https URL"),
    "plain http elsewhere": (Reply(b"", 302, {"Location": "http://127.0.0.2/x"}), "not https"),
}


@pytest.mark.parametrize("thumbnail", [False, True], ids=["checked", "decoded"])
@pytest.mark.parametrize("case", BAD)
def test_nothing_bad_is_stored(bucket: S3Bucket, folder: Path, case: str, thumbnail: bool) -> None:
    reply, says = BAD[case]
    with Scripted(lambda _: reply) as host, pytest.raises(ImageNotCopied, match=says):
        _copy(bucket, host.url + "/?sig=hush", thumbnail=thumbnail)
    assert not folder.exists()


def test_too_large_is_refused(bucket: S3Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_download, "MAX_IMAGE_BYTES", 1000)
    with Scripted(lambda _: Reply(PNG)) as host, pytest.raises(ImageNotCopied, match="larger than 1000"):
        _copy(bucket, host.url)
    with pytest.raises(ImageNotCopied, match="larger than 1000"):
        _copy(bucket, f"data:image/png;base64,{base64.b64encode(PNG).decode()}")
    assert not folder.exists()


@pytest.mark.parametrize(
    "first",
    [
        Reply(b"", 404),
        Reply(b"", 503, {"Retry-After": "0"}),
        Reply(b"", 522),
        Reply(b"<html>soon"),
        Reply(PNG[:-40]),
        Reply(reset=True),
    ],
    ids=["404", "503", "522", "html", "cut", "reset"],
)
def test_nothing_good_is_lost(bucket: S3Bucket, folder: Path, first: Reply) -> None:
    replies = [first, first]
    with Scripted(lambda _: replies.pop() if replies else Reply(PNG)) as host:
        _copy(bucket, host.url, retry=10)
    assert (folder / "images/x.png").read_bytes() == PNG


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{base64.b64encode(PNG).decode()}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG),
    ],
    ids=["base64", "percent"],
)
def test_data_urls(bucket: S3Bucket, folder: Path, url: str) -> None:
    image = _copy(bucket, url).image
    assert (folder / "images/x.png").read_bytes() == PNG
    assert len(image.source_url) < 60


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("data:image/png;base64", "no readable data"),
        ("data:image/png;base64,!!!!", "no readable data"),
        ("data:image/png;base64,aGVsbG8=", "no picture of a known kind"),
        ("file:///etc/passwd", "cannot be fetched"),
        ("not a url", "cannot be fetched"),
        ("http://127.0.0.2:1/x.png", "not https"),
        ("https://127.0.0.2:1/x.png", "no public address"),
        ("http://[", "cannot be fetched"),
        ("https://127.0.0.1:99999/x.png", "cannot be fetched"),
    ],
)
def test_urls_that_are_never_followed(bucket: S3Bucket, folder: Path, url: str, says: str) -> None:
    with pytest.raises(ImageNotCopied, match=says):
        _copy(bucket, url)
    assert not folder.exists()


def test_large_images_spill_to_disk(bucket: S3Bucket, folder: Path) -> None:
    noisy = io.BytesIO()
    Image.effect_noise((1700, 1700), 100).save(noisy, "PNG")
    assert len(noisy.getvalue()) > _bodies.IN_MEMORY_BYTES
    with Scripted(lambda _: Reply(noisy.getvalue())) as host:
        _copy(bucket, host.url)
    assert (folder / "images/x.png").read_bytes() == noisy.getvalue()


def test_the_same_image_is_not_stored_again(bucket: S3Bucket, folder: Path) -> None:
    with Scripted(lambda _: Reply(PNG)) as host:
        one = _copy(bucket, host.url).image
        stamp = (folder / "images/x.png").stat().st_mtime_ns
        assert _copy(bucket, host.url).image == one
    assert (folder / "images/x.png").stat().st_mtime_ns == stamp


def test_another_object_is_never_overwritten(bucket: S3Bucket, folder: Path) -> None:
    opened = ObjectStore(bucket)
    opened.put(opened.key("images/x.png"), b"somebody's", "text/plain")
    with (
        Scripted(lambda _: Reply(PNG)) as host,
        pytest.raises(ImageNotCopied, match="holds another object"),
    ):
        _copy(bucket, host.url)
    assert (folder / "images/x.png").read_bytes() == b"somebody's"


def test_what_is_listed_is_the_folder(bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def few(_: ObjectStore, prefix: str) -> set[str]:
        asked.append(prefix)
        return {"x.png"}

    monkeypatch.setattr(ObjectStore, "few", few)
    listing = Listing(ObjectStore(bucket))
    assert [listing.take(key, many=True) for key in ("x.png", "a/b/x.png", "a/b/x.png")] == [
        *(False, True, False)
    ]
    assert asked == ["", "a/b/"]


def test_who_overwrites_ours_is_not_overwritten(make_bucket: MakeBucket, s3: Any) -> None:
    """Between our put and a look at what came of it, which some stores need."""
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        bucket = make_bucket(endpoint_url=proxy.url)
        direct = ObjectStore(bucket.model_copy(update={"credentials": make_bucket().credentials}))

        def somebody_else() -> None:
            if proxy.seen[-1].method == "PUT":
                direct.put(direct.key("images/x.png"), b"somebody's", "text/plain")

        proxy.alter, proxy.after = _opaque, somebody_else
        with pytest.raises(ImageNotCopied, match="holds another object"):
            _copy(bucket, host.url)
        assert len(_of_images(proxy, "PUT")) == 1
    assert (s3.folder / direct.key("images/x.png")).exists() is False
    assert direct.find(direct.key("images/x.png")) is not None


def _opaque(seen: Seen, headers: dict[str, str]) -> None:
    """As a store that makes its tags in a way of its own."""
    for name in headers:
        if name.lower() == "etag":
            headers[name] = '"of-its-own-0"'


def _of_images(proxy: FaultyS3, method: str) -> list[Seen]:
    return [seen for seen in proxy.seen if seen.method == method and "/images/" in seen.path]


def test_what_a_tag_proves_is_not_read_again(make_bucket: MakeBucket, s3: Any) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        bucket = make_bucket(endpoint_url=proxy.url)
        _copy(bucket, host.url)
        _copy(bucket, host.url)
        assert (len(_of_images(proxy, "PUT")), _of_images(proxy, "GET")) == (1, [])


def test_what_no_tag_proves_is_read_again(make_bucket: MakeBucket, s3: Any) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        proxy.alter = _opaque
        bucket = make_bucket(endpoint_url=proxy.url)
        _copy(bucket, host.url)
        assert (len(_of_images(proxy, "PUT")), len(_of_images(proxy, "GET"))) == (1, 1)
        _copy(bucket, host.url)
        assert (len(_of_images(proxy, "PUT")), len(_of_images(proxy, "GET"))) == (1, 2)


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
        _copy(bucket, host.url)
        _copy(bucket, host.url)
        told.clear()
        with pytest.raises(pytest.fail.Exception):
            _copy(bucket, host.url)


WRONG = "0" * 32


@pytest.mark.parametrize("tag", [f'"{WRONG}"', f'W/"{WRONG}"', '"of-its-own"', '""', ""])
def test_a_host_with_tags_of_another_kind(make_bucket: MakeBucket, s3: Any, tag: str) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG, 200, {"ETag": tag})) as host:
        bucket = make_bucket(endpoint_url=proxy.url)
        _copy(bucket, host.url)
        assert (len(_of_images(proxy, "PUT")), _of_images(proxy, "GET")) == (1, [])
        if tag != f'"{WRONG}"':  # that two say the same is a proof if it can be an MD5
            proxy.alter = lambda _, headers: headers.update(Etag=tag)
            _copy(bucket, host.url, "images/y")
            assert len(_of_images(proxy, "GET")) == 1


@pytest.mark.parametrize("times", [1, 99])
def test_a_store_that_keeps_other_bytes(make_bucket: MakeBucket, s3: Any, times: int) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        bucket = make_bucket(endpoint_url=proxy.url)
        path = s3.folder / bucket.bucket_name / bucket.bucket_folder / "images/x.png"

        def damaged(seen: Seen) -> bytes:
            flip = seen.method == "PUT" and len(_of_images(proxy, "PUT")) <= times
            return seen.body[:-1] + b"?" if flip else seen.body

        proxy.alter, proxy.tamper = _opaque, damaged
        if times == 1:
            _copy(bucket, host.url)
            assert path.read_bytes() == PNG
            assert len(_of_images(proxy, "PUT")) == 2
        else:
            with pytest.raises(ImageNotCopied, match="does not give back the bytes that it was sent"):
                _copy(bucket, host.url)
            assert len(_of_images(proxy, "PUT")) == storage.PUT_TRIES


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
        _copy(bucket, host.url, retry=10)
        path = s3.folder / bucket.bucket_name / bucket.bucket_folder / "images/x.png"
        assert path.read_bytes() == PNG


def test_what_is_cut_while_it_is_read_is_read_again(make_bucket: MakeBucket, s3: Any) -> None:
    cut = [Reply(b"{", length=500)] * 2
    with FaultyS3(s3.endpoint_url) as proxy:
        proxy.fault = lambda seen: cut.pop() if seen.method == "GET" and cut else None
        bucket = ObjectStore(make_bucket(endpoint_url=proxy.url))
        tag = bucket.put("x/record.json", b"{}", "application/json")["ETag"]
        assert bucket.find("x/record.json") == (b"{}", tag)
        proxy.fault = lambda _: Reply(b"{", length=500)
        with pytest.raises(StorageError, match=r"x/record\.json cannot be read: its body is cut"):
            bucket.find("x/record.json")


def test_what_an_upload_left_that_was_cut_off_is_stored_again(bucket: S3Bucket, folder: Path) -> None:
    opened = ObjectStore(bucket)
    ours = {"sha256": hashlib.sha256(PNG).hexdigest()}
    opened.put(opened.key("images/x.png"), PNG[:100], "image/png", Metadata=ours)
    with Scripted(lambda _: Reply(PNG)) as host:
        _copy(bucket, host.url)
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
        _copy(make_bucket(endpoint_url=proxy.url), host.url, retry=60)
        assert (len(host.seen), left) == (1, [0])


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
            _opaque(seen, headers)
            if checksum := seen.headers.get("x-amz-checksum-sha256"):
                headers["x-amz-checksum-sha256"] = checksum

        proxy.alter = encrypted
        image = _copy(make_bucket(endpoint_url=proxy.url), host.url, options=options).image
        assert _of_images(proxy, "GET") == []  # the store's checksum will do
    opened.put(opened.key("index.html"), b"page", "text/html", "page")
    opened.put(opened.key("records/x.json"), b"{}", "application/json")
    client = opened.client

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


def test_a_race_is_settled_where_the_store_knows_conditional_writes(
    make_bucket: MakeBucket, moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All look before any of them stores: one wins, and who has the same bytes has won too."""
    bucket = make_bucket(endpoint_url=moto_url)
    take, barrier = Listing.take, threading.Barrier(4)

    def look_together(self: Listing, key: str, *, many: bool) -> bool:
        free = take(self, key, many=True)
        barrier.wait(10)
        return free

    monkeypatch.setattr(Listing, "take", look_together)
    results: list[Any] = []
    pictures = [PNG, PNG, draw("other", seed="9", longest=96), PNG]
    with Scripted(lambda s: Reply(pictures[int(s.path[1:])])) as host:

        def work(number: int) -> None:
            try:
                results.append(_copy(bucket, f"{host.url}/{number}").image.sha256)
            except ImageNotCopied as error:
                results.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    opened = ObjectStore(bucket)
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
        opened = ObjectStore(make_bucket(endpoint_url=proxy.url))
        opened.conditional = True
        with Copier(opened, ["127.0.0.1"]) as copier:

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


def test_few_images_are_not_worth_finding_out(make_bucket: MakeBucket, s3: Any) -> None:
    """What the store does, and what is in the folder: it takes as long as an image does."""
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        opened = ObjectStore(make_bucket(endpoint_url=proxy.url))

        def asked(name: int) -> list[str]:
            before = len(proxy.seen)
            copier.copy(host.url, opened.key("images", str(name)))
            return [seen.method for seen in proxy.seen[before:]]

        with Copier(opened, ["127.0.0.1"]) as copier:
            for name in range(storage.FEW):
                assert asked(name) == ["HEAD", "PUT"]
            learned = [opened.checks]
            assert asked(name + 1) == ["GET", "PUT"]
            assert [*learned, opened.checks] == [None, False]
            assert asked(name + 2) == ["PUT"]
            assert asked(0) == ["HEAD"]


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if many images had been copied."""
    monkeypatch.setattr(storage, "FEW", 0)


@pytest.mark.usefixtures("many")
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

        with Copier(opened, ["127.0.0.1"]) as copier:
            assert asked(copier, "one") == ["GET", "PUT"]
            assert asked(copier, "two") == ["PUT"]
            assert asked(copier, "one") == ["HEAD"], "this copier took it"
        with Copier(opened, ["127.0.0.1"]) as copier:
            assert asked(copier, "two") == ["GET", "HEAD"], "it was in the list"
            assert asked(copier, "three") == ["PUT"]
            monkeypatch.setattr(time, "monotonic", _later(LISTED_SECONDS))
            assert asked(copier, "four") == ["HEAD", "PUT"], "the list is old"


def _later(seconds: float, clock: Callable[[], float] = time.monotonic) -> Callable[[], float]:
    return lambda: clock() + seconds


@pytest.mark.usefixtures("many")
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
    with Scripted(lambda _: Reply(PNG)) as host, Copier(opened, ["127.0.0.1"]) as copier:
        with pytest.raises(ImageNotCopied, match="holds another object, which is not overwritten"):
            copier.copy(host.url, opened.key("images/7"))
        copier.copy(host.url, opened.key("images/free"))
    assert ((folder / "7.png").read_bytes(), (folder / "free.png").read_bytes()) == (b"", PNG)


def test_a_store_that_checks_what_it_gets_is_believed(make_bucket: MakeBucket, s3: Any) -> None:
    """Then no MD5 is worked out, which takes longer than all else."""
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        proxy.alter = _opaque
        opened = ObjectStore(make_bucket(endpoint_url=proxy.url))
        opened.checks = opened.conditional = True
        with Copier(opened, ["127.0.0.1"]) as copier:
            copier.copy(host.url, opened.key("images/x"))
        assert [seen.method for seen in proxy.seen] == ["PUT"]


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("says", "checks"),
    [
        (s3_error(400, "XAmzContentSHA256Mismatch"), True),
        (s3_error(403, "SignatureDoesNotMatch"), True),
        (s3_error(400, "InvalidRequest"), False),
        (s3_error(403, "AccessDenied"), False),
        (s3_error(500, "InternalError"), False),
        (Reply(reset=True), False),
        (None, False),
    ],
    ids=["mismatch", "signature", "something", "denied", "error", "reset", "nothing"],
)
def test_whatever_a_store_says_of_a_wrong_signature_the_image_arrives(
    make_bucket: MakeBucket, s3: Any, says: Reply | None, checks: bool
) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        wrong = "0" * 64
        proxy.fault = lambda s: says if s.headers.get("x-amz-content-sha256") == wrong else None
        opened = ObjectStore(make_bucket(endpoint_url=proxy.url))
        with Copier(opened, ["127.0.0.1"]) as copier:
            for name in ("one", "two"):
                copier.copy(host.url, opened.key("images", name))
        signed = [s.headers["x-amz-content-sha256"] for s in proxy.seen if s.method == "PUT"]
    right, first = hashlib.sha256(PNG).hexdigest(), signed.count(wrong)
    assert signed == [wrong] * first + [right] * (2 if says else 1)
    assert first >= 1, "boto3 tries some answers again"
    assert len(host.seen) == 2, "neither image is fetched again"
    assert opened.checks is checks
    folder = s3.folder / opened.name / opened.folder / "images"
    assert [(folder / f"{name}.png").read_bytes() for name in ("one", "two")] == [PNG, PNG]


@pytest.mark.parametrize("signs", [True, False])
def test_uploads_are_signed_with_their_checksum(make_bucket: MakeBucket, s3: Any, signs: bool) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        block = make_bucket(endpoint_url=proxy.url)
        if not signs:
            parameters = block.credentials.aws_client_parameters
            parameters.config = {"s3": {"payload_signing_enabled": False}}
        opened = ObjectStore(block)
        with Copier(opened, ["127.0.0.1"]) as copier:
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


def test_stores_without_conditional_writes_are_written_to_plainly(
    make_bucket: MakeBucket, s3: Any
) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        proxy.fault = lambda seen: (
            s3_error(501, "NotImplemented") if "if-none-match" in seen.headers else None
        )
        bucket = make_bucket(endpoint_url=proxy.url)
        _copy(bucket, host.url)
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
            _copy(bucket, host.url)  # what is there already is looked at
        proxy.fault = answer
        _copy(bucket, host.url, retry=20)
        assert left == [0]
        path = s3.folder / bucket.bucket_name / bucket.bucket_folder / "images/x.png"
        assert path.read_bytes() == PNG


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_access_denied_is_final_and_said(make_bucket: MakeBucket, s3: Any, method: str) -> None:
    with FaultyS3(s3.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        bucket = make_bucket(endpoint_url=proxy.url)
        if method == "HEAD":
            _copy(bucket, host.url)  # what is there already is looked at
        denied = ("GET", "HEAD") if method == "GET" else (method,)
        proxy.fault = lambda seen: s3_error(403, "AccessDenied") if seen.method in denied else None
        before = len(proxy.seen)
        with pytest.raises(BucketNotUsable, match="access is denied"):
            _copy(bucket, host.url)
    # What a first image is answered may be about its signature alone, so it is sent once more as it is.
    assert sum(seen.method == method for seen in proxy.seen[before:]) == (2 if method == "PUT" else 1)


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
    assert repr(bucket).startswith("Bucket(")


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
        (_refusal("KMS.DisabledException", 400), BucketNotUsable, "mend kms_key_id"),
        (_refusal("RequestTimeTooSkewed", 403), BucketNotUsable, "clock is wrong: set it"),
        (_refusal("InvalidObjectState", 403), StorageError, "answered InvalidObjectState"),
        (_refusal("EntityTooLarge", 400), StorageError, "answered EntityTooLarge"),
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
        client: Any = opened.client
        return client._request_signer._credentials.get_frozen_credentials().token

    first = token()
    assert first
    assert token() == first
    now[0] += 450
    assert token() not in (first, None)


def test_a_client_that_cannot_be_made(bucket: S3Bucket) -> None:
    bucket.credentials.aws_client_parameters.api_version = "1066-10-14"
    with pytest.raises(StorageError):
        _ = ObjectStore(bucket).client


@pytest.mark.parametrize("thumbnail", [False, True], ids=["checked", "decoded"])
@pytest.mark.parametrize("content", [PNG, JPEG, WEBP, _gif()], ids=["png", "jpeg", "webp", "gif"])
def test_every_truncation_is_noticed(content: bytes, thumbnail: bool) -> None:
    lengths = [*range(1, 40), *range(40, len(content), max(1, len(content) // 60)), len(content) - 1]
    for length in lengths:
        with tempfile.SpooledTemporaryFile() as file:
            file.write(content[:length])
            with pytest.raises(NotAPicture):
                inspect(file, thumbnail=thumbnail)


def test_every_damaged_byte_of_a_png_is_noticed() -> None:
    for place in range(0, len(PNG), max(1, len(PNG) // 500)):
        damaged = bytearray(PNG)
        damaged[place] ^= 0x10
        with pytest.raises(NotAPicture):
            inspect(io.BytesIO(damaged), thumbnail=False)


@pytest.mark.parametrize(
    "content",
    [PNG + b"\n", JPEG + b"\0\0", WEBP + b"extra", _gif() + b"\r\n"],
    ids=["png", "jpeg", "webp", "gif"],
)
def test_bytes_after_the_end_harm_no_picture(content: bytes) -> None:
    for thumbnail in (False, True):
        assert inspect(io.BytesIO(content), thumbnail=thumbnail).width > 0


def test_a_jpeg_with_further_pictures_is_a_jpeg(bucket: S3Bucket) -> None:
    out = io.BytesIO()
    pictures = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
    pictures[0].save(out, "MPO", save_all=True, append_images=pictures[1:])
    with Scripted(lambda _: Reply(out.getvalue())) as host:
        assert _copy(bucket, host.url).image.content_type == "image/jpeg"


def test_no_room_on_the_way_is_said(bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prefect_nanobanana.images._fetcher.inspect", full)
    with Scripted(lambda _: Reply(PNG)) as host, pytest.raises(ImageNotCopied, match="No space left"):
        _copy(bucket, host.url)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cute orange cat", "a-cute-orange-cat"),
        ("Straße nach Ægir, Käse!", "strasse-nach-gir-kase"),
        ("../../etc/passwd", "etc-passwd"),
        ("日本語", "image"),
        ("", "image"),
        ("---", "image"),
        ("a" * 99, "a" * 40),
        ("one two three four five six seven eight nine", "one-two-three-four-five-six-seven-eight"),
    ],
)
def test_slug(text: str, expected: str) -> None:
    assert slug(text) == expected


@pytest.mark.parametrize(
    "text", ["Käse " * 500, "日本語" * 500, "plain " * 900, "😀" * 900, "100%" * 700]
)
def test_metadata_fits_and_can_be_undone(text: str) -> None:
    safe = safe_metadata({"model": "m\r\nx-amz-acl: public", "prompt": text, "last": "dropped?"})
    assert sum(len(k) + len(v) for k, v in safe.items()) <= 2048
    assert all(" " <= c <= "~" for v in safe.values() for c in v)
    assert safe["model"] == "m x-amz-acl: public"
    undone = unquote(safe["prompt"], errors="strict")
    assert text.startswith(undone.strip()) or undone.strip() in " ".join(text.split())
    assert len(undone) > 100
