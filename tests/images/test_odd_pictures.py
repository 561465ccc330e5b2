"""A picture is what a browser shows: whole ones are taken as they are, broken ones never."""

from __future__ import annotations

import hashlib
import io
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import pytest
from odd_pictures import (
    animated,
    box,
    chunk,
    damaged,
    film,
    interlaced,
    mdat_length,
    outer_length,
    picture,
    turned,
    with_chunk,
    with_segment,
)
from prefect_aws import S3Bucket
from servers import Reply, Scripted

from prefect_nanobanana import ImageNotCopied, StoredImage
from prefect_nanobanana.images import Fetcher
from prefect_nanobanana.images._picture import NotAPicture, Picture, inspect
from prefect_nanobanana.tasks import copy_image_to_s3

PNG, JPEG, WEBP, GIF, AVIF, BMP = map(picture, ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "BMP"))
PROGRESSIVE = picture("JPEG", progressive=True)
PALETTE, ADAM7, APNG = picture("PNG", mode="P"), interlaced(), animated()
JSON, PAGE = b'{"workflow": [1, 2, 3]}', b"<!doctype html><p>Not yet"
NOISE = bytes(range(256)) * 4097  # more than a megabyte


def _fetch(reply: Reply, *, thumbnail: bool) -> Picture:
    with (
        Fetcher(["127.0.0.1"]) as fetcher,
        Scripted(lambda _: reply) as host,
        closing(fetcher.fetch(f"{host.url}/x.png?sig=hush", thumbnail=thumbnail).body) as body,
    ):
        assert body.sha256 == hashlib.sha256(reply.body).digest()
        return fetcher.fetch(host.url, thumbnail=thumbnail).picture


def _pixels(change: Callable[[bytes], bytes]) -> bytes:
    """A PNG with other compressed pixels; all of them are in one chunk."""
    start, end = PNG.index(b"IDAT") - 4, PNG.index(b"IEND") - 4
    return PNG[:start] + chunk(b"IDAT", change(PNG[start + 8 : end - 4])) + PNG[end:]


EXIF_AVIF = picture("AVIF", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
WHOLE = {
    # Bytes behind the end.
    "jpeg, film": JPEG + film(),
    "jpeg, picture": JPEG + JPEG,
    "jpeg, padding": JPEG + bytes(70_000),
    "jpeg, text": JPEG + JSON,
    "jpeg, progressive": PROGRESSIVE + b"\xff\xd8\xff\xe0",
    "png, json": PNG + JSON,
    "png, megabytes": PNG + NOISE,
    "png, picture": PNG + JPEG,
    "png, beginning of a chunk": PNG + b"\0\0\xff\xffIDAT",
    "gif, json": GIF + JSON,
    "gif, padding": GIF + bytes(5000),
    "gif, page": GIF + PAGE,
    "webp, json": WEBP + JSON,
    "webp, padding": WEBP + bytes(3000),
    "avif, json": AVIF + JSON,
    "avif, padding": AVIF + bytes(3000),
    # Parts without pixels.
    "png, text, wrong checksum": with_chunk(PNG, chunk(b"tEXt", b"Comment\0hello", 7)),
    "png, gamma cut short": with_chunk(PNG, chunk(b"gAMA", b"\0\1")),
    "png, profile that is none": with_chunk(PNG, chunk(b"iCCP", b"x\0\0nonsense")),
    "png, time, wrong checksum, behind": with_chunk(PNG, chunk(b"tIME", bytes(7), 1), b"IEND"),
    "png, name of no chunk": with_chunk(PNG, chunk(b"z\x01p!", b"x")),
    "png, end, wrong checksum": PNG[:-4] + b"\0\0\0\0",
    "png, transparency, wrong checksum": with_chunk(PNG, chunk(b"tRNS", bytes(6), 3)),
    "png, exif, wrong checksum": with_chunk(PNG, chunk(b"eXIf", b"MM", 9)),
    "png, workflow": with_chunk(PNG, chunk(b"zTXt", b"workflow\0\0" + zlib.compress(NOISE * 3))),
    "png, international text": with_chunk(
        PNG, chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"x" * 80_000_000, 1))
    ),
    "png, profile of megabytes": with_chunk(PNG, chunk(b"iCCP", b"p\0\0" + zlib.compress(NOISE * 2))),
    "jpeg, exif that is none": with_segment(JPEG, 0xE1, b"Exif\0\0nonsense"),
    "jpeg, photoshop that is none": with_segment(JPEG, 0xED, b"Photoshop 3.0\08BIM\x04"),
    "jpeg, further pictures that are none": with_segment(JPEG, 0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
    "jpeg, end of its thumbnail": with_segment(JPEG, 0xE1, b"Exif\0\0" + JPEG[:600]),
    "jpeg, fill bytes": JPEG[:2] + b"\xff\xff\xff" + JPEG[2:],
    "png, pixels' own checksum": _pixels(lambda pixels: pixels[:-4] + b"\1\2\3\4"),
    "png, pixels' own checksum, cut": _pixels(lambda pixels: pixels[:-3]),
    "png, pixels and more": _pixels(lambda pixels: pixels + b"more"),
    "png, pixels in pieces": PNG[:33] + chunk(b"IDAT", b"") * 9 + PNG[33:],
    "png, transparency cut short": with_chunk(PNG, chunk(b"tRNS", b"\0\1")),
    "png, transparency of nothing": with_chunk(PNG, chunk(b"tRNS", b"")),
    "png, palette that is not needed, wrong checksum": with_chunk(PNG, chunk(b"PLTE", bytes(9), 7)),
    "jpeg, profile cut short": with_segment(JPEG, 0xE2, b"ICC_PROFILE\0\1"),
    "jpeg, profile of nothing": with_segment(JPEG, 0xE2, b"ICC_PROFILE\0"),
    "jpeg, adobe cut short": with_segment(JPEG, 0xEE, b"Adobe"),
    "jpeg, adobe": with_segment(JPEG, 0xEE, b"Adobe\0d\0\0\0\0\1"),
    "jpeg, garbage between": JPEG[:20] + b"\0\x11garbage" + JPEG[20:],
    "avif, exif that is none": EXIF_AVIF.replace(b"MM\0*", b"none"),
    "gif, comment": GIF[:-1] + b"\x21\xfe\x05hello\0\0\0;",
    # A container that is a little wrong about its length.
    "webp, 1 more": outer_length(WEBP, 1),
    "webp, 8 more": outer_length(WEBP, 8),
    "webp, 2 less": outer_length(WEBP, -2),
    "webp, nothing": outer_length(WEBP, -(len(WEBP) - 8)),
    "avif, 4 more": mdat_length(AVIF, 4),
    "avif, open end": mdat_length(AVIF, -int.from_bytes(AVIF[AVIF.index(b"mdat") - 4 :][:4], "big")),
    # Kinds.
    "avif": AVIF,
    "bmp": BMP,
    "png of 16 bits, interlaced sizes": picture("PNG", (1, 3), "I;16"),
    "png of 1 bit": picture("PNG", (17, 5), "1"),
    "png, palette": PALETTE,
    "png, interlaced": ADAM7,
    "png, animated": APNG,
}


@pytest.mark.parametrize("thumbnail", [False, True], ids=["checked", "decoded"])
@pytest.mark.parametrize("case", WHOLE)
def test_whole_pictures_are_taken_as_they_are(case: str, thumbnail: bool) -> None:
    seen = _fetch(Reply(WHOLE[case]), thumbnail=thumbnail)
    assert seen.checked
    kind = "jpg" if case.startswith("jpeg") else case.partition(",")[0].split()[0]
    assert (seen.extension, seen.content_type) == (kind, f"image/{kind.replace('jpg', 'jpeg')}")
    expected = {"png of": [(1, 3), (17, 5)]}.get(case[:6], [(96, 64)])
    assert (seen.width, seen.height) in expected
    assert (seen.thumbnail != "") == thumbnail


def _short_rows(count: int) -> bytes:
    """A PNG of 400 rows whose checksums are right, and that lacks its last ones."""
    png = picture("PNG", (96, 400))
    rows = zlib.compress(bytes(count * (1 + 3 * 96)), 0)
    return png[: png.index(b"IDAT") - 4] + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _header(depth: int) -> bytes:
    return chunk(b"IHDR", PNG[16:24] + bytes([depth]) + PNG[25:29])


ONLY_IN_NAME = {
    "only its end": PNG[:8] + PNG[-12:],
    "another part before the header": with_chunk(PNG, chunk(b"gAMA", PNG[16:29]), b"IHDR"),
    "a depth that there is not": PNG[:8] + _header(7) + PNG[33:],
    "pixels that are not packed": PNG[:33] + chunk(b"IDAT", NOISE) + PNG[-12:],
}
"""PNGs whose checksums are right, and that no browser shows."""

BROKEN = {
    "empty": (b"", "empty"),
    "page": (PAGE, "HTML"),
    "page with a mark": (b"\xef\xbb\xbf\r\n<html>", "HTML"),
    "json": (JSON, "JSON"),
    "list": (b'\n ["x"]', "JSON"),
    "text": (b"no such image", "no picture of a known kind"),
    "png, cut": (PNG[:-30], "cut short"),
    "png, cut, with a tail": (PNG[:-30] + bytes(5000), "broken|cut short"),
    "png, a pixel": (PNG[:-30] + b"\x55" + PNG[-29:], "checksum of IDAT"),
    "png, size": (PNG[:19] + b"\x01" + PNG[20:], "checksum of IHDR"),
    "png, palette's checksum": (damaged(PALETTE, b"PLTE"), "checksum of PLTE"),
    "png, end, with a tail": (PNG[:-12] + JSON, "cut short"),
    "png, interlaced, cut": (ADAM7[:-20], "cut short"),
    "png, interlaced, a pixel": (damaged(ADAM7, b"IDAT"), "checksum of IDAT"),
    "png, animated, cut": (APNG[: APNG.index(b"fdAT") + 9], "cut short"),
    "png, animated, a pixel": (damaged(APNG, b"IDAT"), "checksum of IDAT"),
    "png, without pixels": (PNG[: PNG.index(b"IDAT") - 4] + chunk(b"IEND", b""), "rows are missing"),
    "jpeg, cut": (JPEG[:-2], "cut short"),
    "jpeg, cut behind its thumbnail": (with_segment(JPEG, 0xE1, b"Exif\0\0" + JPEG)[:-60], "cut short"),
    "jpeg, no picture": (b"\xff\xd8\xff\xe0\0\4xx\xff\xd9", "broken"),
    "progressive jpeg, cut": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "cut short"),
    "gif, cut": (GIF[:-5], "cut short"),
    "gif, header": (GIF[:13], "cut short"),
    "webp, cut": (WEBP[:-9], "cut short"),
    "webp, far too long": (outer_length(WEBP, 2000), "cut short"),
    "webp, header": (WEBP[:20], "cut short"),
    "avif, cut": (AVIF[:-9], "cut short"),
    "avif, half": (AVIF[: len(AVIF) // 2], "cut short"),
    "avif, header": (AVIF[:32], "cut short"),
    "bmp, cut": (BMP[:-9], "cut short"),
    "film, cut": (film()[:-2000], "cut short"),
    "heic, cut": (film(b"heic")[:-2000], "cut short"),
}


@pytest.mark.parametrize("thumbnail", [False, True], ids=["checked", "decoded"])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_pictures_are_refused_and_not_lost(case: str, thumbnail: bool) -> None:
    content, says = BROKEN[case]
    with pytest.raises(ImageNotCopied, match=rf"http://127.0.0.1:\d+/x.png: .*({says})") as caught:
        _fetch(Reply(content), thumbnail=thumbnail)
    assert not caught.value.gone
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("thumbnail", [False, True], ids=["checked", "decoded"])
@pytest.mark.parametrize("case", ONLY_IN_NAME)
def test_right_checksums_do_not_make_a_picture(case: str, thumbnail: bool) -> None:
    with pytest.raises(ImageNotCopied, match="broken"):
        _fetch(Reply(ONLY_IN_NAME[case]), thumbnail=thumbnail)


def test_missing_rows_are_found_where_pixels_are_decoded() -> None:
    """Without a thumbnail a PNG's own checksums do, as unpacking it takes longer than the whole copy."""
    with pytest.raises(ImageNotCopied, match="rows are missing"):
        _fetch(Reply(_short_rows(300)), thumbnail=True)
    assert _fetch(Reply(_short_rows(300)), thumbnail=False).checked


def test_missing_rows_of_small_pictures_are_always_found() -> None:
    with pytest.raises(ImageNotCopied, match="rows are missing"):
        _fetch(Reply(_short_rows(40)), thumbnail=False)


SOF = JPEG.index(b"\xff\xc0")
GIF_FRAME = GIF.index(b",\0\0\0\0")
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
BOMBS = {
    "jpeg, fill bytes": (b"\xff\xd8" + b"\xff" * 1_000_000, "cut short"),
    "jpeg, fill bytes behind pixels": (JPEG[:-2] + b"\xff" * 1_000_000 + b"\0", "cut short"),
    "jpeg, tables": (JPEG[:2] + b"\xff\xdb\0\2" * 250_000 + JPEG[2:], "200000 parts"),
    "jpeg, scans": (
        PROGRESSIVE[:-2] + PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2] * 600,
        "500 scans",
    ),
    "png, pieces": (PNG[:33] + chunk(b"IDAT", b"x") * 210_000 + PNG[33:], "200000 parts"),
    "avif, boxes": (AVIF + box(b"free", b"") * 210_000, "200000 parts"),
    "gif, frame": (
        GIF[: GIF_FRAME + 5] + struct.pack("<HH", 60000, 60000) + GIF[GIF_FRAME + 9 :],
        "broken|too many",
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_cost_little(case: str) -> None:
    content, says = BOMBS[case]
    started = time.process_time()
    with pytest.raises(ImageNotCopied, match=says):
        _fetch(Reply(content), thumbnail=True)
    assert time.process_time() - started < 10


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "JPEG", "PNG", "GIF", "BMP"])
def test_damaged_pictures_raise_only_what_is_ours(kind: str) -> None:
    """AVIF's decoder raises RuntimeError, where others raise OSError."""
    whole, random = picture(kind), Random(1)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[random.randrange(12, min(len(whole), 600))] = random.choice((0, 1, 127, 255))
        with suppress(NotAPicture):
            inspect(io.BytesIO(bytes(damaged)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_width_and_height_as_a_person_sees_them(kind: str, orientation: int) -> None:
    for thumbnail in (False, True):
        seen = _fetch(Reply(turned(kind, orientation)), thumbnail=thumbnail)
        assert (seen.width, seen.height) == ((64, 96) if orientation >= 5 else (96, 64))


def _bmp(bits: int, compression: int, masks: bytes = b"", data: bytes = bytes(64)) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, bits, compression, len(data), 0, 0, 0, 0) + masks
    whole = 14 + len(head) + len(data)
    return b"BM" + struct.pack("<IHHI", whole, 0, 0, 14 + len(head)) + head + data


ICON = "image/vnd.microsoft.icon"
UNCHECKED = {
    # Of a known kind, but of a sort that Pillow does not decode.
    "jpeg of 12 bits": (JPEG[: SOF + 4] + b"\x0c" + JPEG[SOF + 5 :], "image/jpeg"),
    "bmp of 16 bits": (_bmp(16, 3, struct.pack("<III", 0xF00, 0xF0, 0xF)), "image/bmp"),
    "bmp of 30 bits": (_bmp(32, 3, struct.pack("<III", 0x3FF00000, 0xFFC00, 0x3FF)), "image/bmp"),
    "bmp with a png": (_bmp(0, 5, data=PNG), "image/bmp"),
    "mp4": (film(), "video/mp4"),
    "mov": (film(b"qt  "), "video/quicktime"),
    "heic": (film(b"heic"), "image/heic"),
    "heif": (film(b"mif1"), "image/heif"),
    "jxl": (b"\xff\x0a" + bytes(500), "image/jxl"),
    "jxl in boxes": (
        b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl ") + box(b"jxlc", b"x"),
        "image/jxl",
    ),
    "webm": (b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\x82\x84webm" + bytes(500), "video/webm"),
    "mkv": (b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\x82\x88matroska" + bytes(500), "video/x-matroska"),
    "avi": (b"RIFF\0\2\0\0AVI LIST" + bytes(500), "video/x-msvideo"),
    "ico": (struct.pack("<HHHBBBBHHII", 0, 1, 1, 96, 64, 0, 0, 1, 32, len(PNG), 22) + PNG, ICON),
    "big tiff": (b"II+\0" + bytes(99), "image/tiff"),
    "jpeg 2000": (b"\xff\x4f\xff\x51" + bytes(99), "image/j2c"),
    "photoshop": (b"8BPS\0\1" + bytes(99), "image/vnd.adobe.photoshop"),
    "part of a film": (box(b"styp", b"msdh") + box(b"moof", b"") + box(b"mdat", b"x"), "video/mp4"),
    "mpeg": (b"\0\0\1\xba" + bytes(99), "video/mpeg"),
    "transport stream": ((b"G@\0\x10" + bytes(184)) * 5, "video/mp2t"),
    "old mov": (box(b"wide", b"") + box(b"mdat", bytes(900)) + box(b"moov", b"x"), "video/quicktime"),
}


@pytest.mark.parametrize("case", UNCHECKED)
def test_media_that_cannot_be_checked_are_stored_and_marked(
    bucket: S3Bucket, folder: Path, case: str
) -> None:
    content, content_type = UNCHECKED[case]
    misleading = {"Content-Type": "image/png"}
    with Scripted(lambda _: Reply(content, headers=misleading)) as host:
        image = copy_image_to_s3.fn(host.url, bucket, "images/x", trusted_hosts=["127.0.0.1"])
    assert (image.checked, image.content_type, image.size_bytes) == (False, content_type, len(content))
    assert (folder / f"images/x.{image.key.rpartition('.')[2]}").read_bytes() == content
    assert image.model_dump()["checked"] is False
    assert StoredImage.model_validate_json(image.model_dump_json()) == image


@pytest.mark.parametrize("case", UNCHECKED)
def test_what_may_not_be_whole_is_not_taken_unchecked(case: str) -> None:
    for reply in (Reply(UNCHECKED[case][0], length=-1), Reply(UNCHECKED[case][0], length=99_999)):
        with pytest.raises(ImageNotCopied, match="did not say how long it is|IncompleteRead"):
            _fetch(reply, thumbnail=False)


def test_pictures_that_were_checked_are_written_as_before() -> None:
    record = {"uri": "s3://b/k", "key": "k", "content_type": "image/png", "size_bytes": 1, "sha256": "0"}
    record |= {"width": 1, "height": 2, "source_url": "https://host/x"}
    image = StoredImage.model_validate(record)
    assert image.checked
    assert image.model_dump(mode="json") == record
