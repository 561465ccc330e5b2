"""From a URL to S3: byte for byte, once, and nothing that is no whole picture."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from copies import JPEG, PNG, WEBP, copy_image, gif
from PIL import Image
from prefect_aws import S3Bucket
from servers import Reply, Scripted, Seen

from prefect_nanobanana import ImageNotCopied
from prefect_nanobanana._common.naming import safe_metadata, slug
from prefect_nanobanana.images import _body as _bodies
from prefect_nanobanana.images._copier import Copied, Copier
from prefect_nanobanana.images._download import MAX_IMAGE_BYTES
from prefect_nanobanana.images._fetcher import Fetcher
from prefect_nanobanana.images._picture import NotAPicture, inspect
from prefect_nanobanana.images._upload import Uploader
from prefect_nanobanana.s3._store import ObjectStore

MakeBucket = Callable[..., S3Bucket]


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("content", "kind", "extension"),
    [
        (PNG, "image/png", "png"),
        (JPEG, "image/jpeg", "jpg"),
        (WEBP, "image/webp", "webp"),
        (gif(), "image/gif", "gif"),
    ],
    ids=["png", "jpeg", "webp", "gif"],
)
def test_stored_byte_for_byte_with_type_and_extension_of_its_bytes(
    bucket: S3Bucket, folder: Path, content: bytes, kind: str, extension: str
) -> None:
    misleading = {"Content-Type": "text/plain"}
    with Scripted(lambda _: Reply(content, 200, misleading)) as host:
        url = host.url + "/picture.bmp?sig=hush"
        copied = copy_image(bucket, url, thumbnail=True, prompt="Käse", model="m")
        again = copy_image(bucket, url, prompt="Käse", model="m")
    image = copied.image
    assert len(image.perceptual_hash or "") == 16, "a small picture tells what it looks like"
    assert again == Copied(image.model_copy(update={"perceptual_hash": None}), "")
    assert (folder / f"images/x.{extension}").read_bytes() == content
    assert image.sha256 == hashlib.sha256(content).hexdigest()
    assert (image.content_type, image.size_bytes) == (kind, len(content))
    assert image.uri == f"s3://{bucket.bucket_name}/{image.key}"
    assert image.key == f"{bucket.bucket_folder}/images/x.{extension}"
    assert (image.width, image.height) == Image.open(io.BytesIO(content)).size
    assert "hush" not in image.model_dump_json()
    assert copied.thumbnail.startswith("data:image/webp;base64,")
    head = bucket.credentials.get_s3_client().head_object(Bucket=bucket.bucket_name, Key=image.key)
    assert head["ContentType"] == kind
    told = {name.lower(): value for name, value in head["Metadata"].items()}
    assert told == {"sha256": image.sha256, "prompt": "K%C3%A4se", "model": "m"}


def test_a_prompt_of_any_length_goes_into_metadata(bucket: S3Bucket) -> None:
    with Scripted(lambda _: Reply(PNG)) as host:
        copied = copy_image(bucket, host.url, prompt="a lighthouse in fog, " * 200, model="m" * 60)
    client = bucket.credentials.get_s3_client()
    head = client.head_object(Bucket=bucket.bucket_name, Key=copied.image.key)
    told = {name.lower(): value for name, value in head["Metadata"].items()}
    assert told["prompt"].startswith("a lighthouse in fog, a lighthouse")


def test_what_the_image_host_is_told(bucket: S3Bucket) -> None:
    def answer(seen: Seen) -> Reply:
        if seen.path == "/1":
            return Reply(b"", 302, {"Location": "/2", "Set-Cookie": "a=b"})
        return Reply(PNG)

    with Scripted(answer) as host:
        copy_image(bucket, host.url + "/1")
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
        copy_image(bucket, host.url + "/?sig=hush", thumbnail=thumbnail)
    assert not folder.exists()


def test_too_large_is_refused(bucket: S3Bucket, folder: Path) -> None:
    refused = pytest.raises(ImageNotCopied, match="larger than 1000")
    with MAX_IMAGE_BYTES.use(1000), Scripted(lambda _: Reply(PNG)) as host, refused:
        copy_image(bucket, host.url)
    with MAX_IMAGE_BYTES.use(1000), refused:
        copy_image(bucket, f"data:image/png;base64,{base64.b64encode(PNG).decode()}")
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
        copy_image(bucket, host.url, retry=10)
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
    image = copy_image(bucket, url).image
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
        copy_image(bucket, url)
    assert not folder.exists()


def test_large_images_spill_to_disk(bucket: S3Bucket, folder: Path) -> None:
    noisy = io.BytesIO()
    Image.effect_noise((1700, 1700), 100).save(noisy, "PNG")
    assert len(noisy.getvalue()) > _bodies.IN_MEMORY_BYTES
    with Scripted(lambda _: Reply(noisy.getvalue())) as host:
        copy_image(bucket, host.url)
    assert (folder / "images/x.png").read_bytes() == noisy.getvalue()


@pytest.mark.parametrize("thumbnail", [False, True], ids=["checked", "decoded"])
@pytest.mark.parametrize("content", [PNG, JPEG, WEBP, gif()], ids=["png", "jpeg", "webp", "gif"])
def test_every_truncation_is_noticed(content: bytes, thumbnail: bool) -> None:
    lengths = [*range(1, 40), *range(40, len(content), max(1, len(content) // 60)), len(content) - 1]
    for length in lengths:
        with tempfile.SpooledTemporaryFile() as file:
            file.write(content[:length])
            with pytest.raises(NotAPicture):
                inspect(file, thumbnail=thumbnail)


def test_every_damaged_byte_of_a_pngs_pixels_is_noticed() -> None:
    for place in (*range(33), *range(PNG.index(b"IDAT"), PNG.index(b"IEND"), max(1, len(PNG) // 500))):
        damaged = bytearray(PNG)
        damaged[place] ^= 0x10
        with pytest.raises(NotAPicture):
            inspect(io.BytesIO(damaged), thumbnail=False)


@pytest.mark.parametrize(
    "content",
    [PNG + b"\n", JPEG + b"\0\0", WEBP + b"extra", gif() + b"\r\n"],
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
        assert copy_image(bucket, host.url).image.content_type == "image/jpeg"


class _NoRoom(Fetcher):
    def fetch(self, *_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")


def test_no_room_on_the_way_is_said(bucket: S3Bucket) -> None:
    opened = ObjectStore(bucket)
    with (
        Copier(_NoRoom(), Uploader(opened), retry_for_seconds=0) as copier,
        pytest.raises(ImageNotCopied, match="No space left"),
    ):
        copier.copy("https://images.example/x.png", opened.key("x"))


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
