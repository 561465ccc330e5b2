"""What files say of where their pictures come from is read, and the files stay as they are."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prefect_nanobanana import RunReport
from prefect_nanobanana.images import _kinds
from prefect_nanobanana.images._kinds import Kind
from prefect_nanobanana.images._marks import marks_of
from prefect_nanobanana.images._picture import inspect
from prefect_nanobanana.sandbox import Sandbox

TERM = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
    f'Iptc4xmpExt:DigitalSourceType="{TERM}"/></rdf:RDF></x:xmpmeta>'
).encode()
JUMBF = b"JP\x00\x01\x00\x00\x00\x01\x00\x00\x01\x00jumb\x00\x00\x00\x1ejumdc2pa\x00\x11\x00\x10c2pa\x00"
BOTH = ("c2pa", "iptc:trainedAlgorithmicMedia")


def _saved(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, kind)
    return out.getvalue()


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(*chunks: bytes) -> bytes:
    plain = _saved("PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


def _jpeg(*segments: tuple[int, bytes]) -> bytes:
    plain = _saved("JPEG")
    made = b"".join(struct.pack(">HH", marker, len(body) + 2) + body for marker, body in segments)
    return plain[:2] + made + plain[2:]


def _webp(*chunks: tuple[bytes, bytes]) -> bytes:
    plain = _saved("WEBP")
    made = b"".join(n + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for n, b in chunks)
    whole = plain[12:] + made
    return b"RIFF" + struct.pack("<I", len(whole) + 4) + b"WEBP" + whole


XMP_TEXT = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
CASES: dict[str, tuple[Kind, bytes, tuple[str, ...]]] = {
    "png": (_kinds.PNG, _png(_chunk(b"caBX", b"x"), _chunk(b"iTXt", XMP_TEXT)), BOTH),
    "png, none": (_kinds.PNG, _png(_chunk(b"tEXt", b"about c2pa DigitalSourceType")), ()),
    "jpeg": (
        _kinds.JPEG,
        _jpeg((0xFFEB, JUMBF), (0xFFE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        BOTH,
    ),
    "jpeg, none": (_kinds.JPEG, _jpeg((0xFFEB, b"JP something else"), (0xFFE1, b"Exif\0\0")), ()),
    "jpeg, another box": (_kinds.JPEG, _jpeg((0xFFEB, JUMBF.replace(b"c2pa", b"360p"))), ()),
    "webp": (_kinds.WEBP, _webp((b"C2PA", b"abc"), (b"XMP ", XMP)), BOTH),
    "webp, none": (_kinds.WEBP, _webp((b"EXIF", b"c2pa")), ()),
}


@pytest.mark.parametrize("case", CASES)
def test_marks_are_read(case: str) -> None:
    kind, content, marks = CASES[case]
    assert marks_of(kind, memoryview(content)) == marks
    picture = inspect(io.BytesIO(content))
    assert picture.marks == marks
    assert picture.checked


def test_a_term_as_an_element() -> None:
    xmp = b"<Iptc4xmpExt:DigitalSourceType>compositeSynthetic</Iptc4xmpExt:DigitalSourceType>"
    content = _png(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    assert marks_of(_kinds.PNG, memoryview(content)) == ("iptc:compositeSynthetic",)


def test_boxes_bear_them_too() -> None:
    uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
    content = (
        struct.pack(">I4s", 16, b"ftyp")
        + b"avif\0\0\0\0"
        + struct.pack(">I4s", 28, b"uuid")
        + uuid
        + b"abcd"
    )
    assert marks_of(_kinds.AVIF, memoryview(content)) == ("c2pa",)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.data())
def test_broken_files_say_nothing_and_raise_nothing(case: str, data: st.DataObject) -> None:
    kind, content, _ = CASES[case]
    cut = content[: data.draw(st.integers(0, len(content)))]
    place = data.draw(st.integers(0, max(0, len(cut) - 1)))
    broken = cut[:place] + data.draw(st.binary(max_size=8)) + cut[place + 4 :]
    for each in (cut, broken):
        assert len(marks_of(kind, memoryview(each))) <= 2


@pytest.mark.usefixtures("prefect_server")
def test_manifest_and_gallery_say_what_a_picture_is(
    run: Callable[..., RunReport], sandbox: Sandbox, folder: Path
) -> None:
    run("a", "b", "a")
    rows = [json.loads(line) for line in (folder / "b/images.jsonl").read_text().splitlines()]
    assert {row["digital_source_type"] for row in rows} == {TERM}
    assert all(len(row["perceptual_hash"]) == 16 for row in rows)
    assert [row["marks"] for row in rows] == [[], [], []]
    records = [json.loads(path.read_text()) for path in (folder / "b/records").iterdir()]
    assert all("marks" not in image for record in records for image in record["images"].values())
