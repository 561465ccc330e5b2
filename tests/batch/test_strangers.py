"""Records are read as input from strangers: whoever may write the bucket may have written them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect_aws import S3Bucket

from prefect_nanobanana import ImagePrompt, LedgerError, StoredImage
from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.models import ImageRequest
from prefect_nanobanana.s3 import ObjectStore

PREVIEW = "data:image/webp;base64,UklGRg=="


def _written(bucket: S3Bucket, folder: Path, **changes: Any) -> Ledger:
    """A ledger whose one record somebody has changed."""
    ledger = Ledger(ObjectStore(bucket), "b")
    record = Record(key="k1", prompt=ImagePrompt(prompt="a"), request=ImageRequest(prompt="a"))
    ledger.write(record)
    content = json.loads(record.model_dump_json()) | changes
    ledger.store.put(ledger.key("records", "k1.json"), json.dumps(content).encode(), "application/json")
    return Ledger(ObjectStore(bucket), "b")


def _image(bucket: S3Bucket, key: str, uri: str | None = None) -> dict[str, Any]:
    image = StoredImage(
        uri=uri or f"s3://{bucket.bucket_name}/{key}",
        key=key,
        content_type="image/png",
        size_bytes=1,
        sha256="0",
        width=1,
        height=1,
        source_url="https://host.example/x.png",
    )
    return json.loads(image.model_dump_json())  # type: ignore[no-any-return]


def test_what_we_wrote_is_read(bucket: S3Bucket, folder: Path) -> None:
    key = f"{bucket.bucket_folder}/b/images/x.png"
    ledger = _written(bucket, folder, images={"1": _image(bucket, key)}, thumbnails={"1": PREVIEW})
    assert ledger.read(["k1"])["k1"].thumbnails == {1: PREVIEW}


@pytest.mark.parametrize(
    "key",
    ["secret.png", "{folder}/other/images/x.png", "{folder}/b/images/../../x.png", "{folder}/b/x.png"],
)
def test_objects_of_others_are_not_named(bucket: S3Bucket, folder: Path, key: str) -> None:
    key = key.format(folder=bucket.bucket_folder)
    ledger = _written(bucket, folder, images={"1": _image(bucket, key)})
    with pytest.raises(LedgerError, match="names an image outside of the batch's folder"):
        ledger.read(["k1"])


def test_another_bucket_is_not_named(bucket: S3Bucket, folder: Path) -> None:
    key = f"{bucket.bucket_folder}/b/images/x.png"
    ledger = _written(bucket, folder, images={"1": _image(bucket, key, f"s3://elsewhere/{key}")})
    with pytest.raises(LedgerError, match="outside"):
        ledger.read(["k1"])


def test_a_record_under_anothers_key_is_refused(bucket: S3Bucket, folder: Path) -> None:
    with pytest.raises(LedgerError, match="is that of another prompt"):
        _written(bucket, folder, key="k2").read(["k1"])


@pytest.mark.parametrize(
    "text",
    [
        '"><script>alert(1)</script>',
        "https://tracker.example/x.png",
        "data:text/html;base64,PGI+",
        "data:image/svg+xml;base64,PHN2Zz4=",
        'data:image/png;base64,AAAA" onerror="x',
        "data:image/png;base64," + "A" * 200_000,
    ],
    ids=["markup", "tracker", "html", "svg", "attribute", "too large"],
)
def test_thumbnails_that_are_none_are_left_out(bucket: S3Bucket, folder: Path, text: str) -> None:
    ledger = _written(bucket, folder, thumbnails={"1": text, "2": PREVIEW, "3": ""})
    assert ledger.read(["k1"])["k1"].thumbnails == {2: PREVIEW, 3: ""}


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_nesting_is_an_error_of_ours(bucket: S3Bucket, folder: Path, depth: int) -> None:
    ledger = _written(bucket, folder)
    body = b'{"key": "k1", "x": ' + b"[" * depth + b"]" * depth + b"}"
    ledger.store.put(ledger.key("records", "k1.json"), body, "application/json")
    with pytest.raises(LedgerError, match="cannot be read, so nothing is spent"):
        ledger.read(["k1"])


@pytest.mark.parametrize(
    "moment", ["2026-11-25T00:00:00", "2026-11-25 00:00", 0, "9999-12-31T23:59:59-23:59"]
)
def test_any_moment_has_a_zone(bucket: S3Bucket, folder: Path, moment: Any) -> None:
    record = _written(bucket, folder, asked_at=moment).read(["k1"])["k1"]
    assert isinstance(record.age_seconds(), float)


@pytest.mark.parametrize("field", ["size_bytes", "width", "height"])
@pytest.mark.parametrize("size", [-1, 2**53, 10**400, 10**4000])
def test_no_picture_is_so_large(bucket: S3Bucket, folder: Path, field: str, size: int) -> None:
    image = _image(bucket, f"{bucket.bucket_folder}/b/images/x.png") | {field: size}
    with pytest.raises(LedgerError, match="cannot be read, so nothing is spent"):
        _written(bucket, folder, images={"1": image}).read(["k1"])


def test_no_record_has_thousands_of_addresses_fetched(bucket: S3Bucket, folder: Path) -> None:
    urls = [f"https://host.example/{n}.png" for n in range(20_000)]
    generation = {"status": "completed", "image_urls": urls}
    record = _written(bucket, folder, state="generated", generation=generation).read(["k1"])["k1"]
    assert len(record.missing) <= 50


def test_signatures_of_references_are_not_kept(bucket: S3Bucket, folder: Path) -> None:
    url = "https://user:secret@host.example/a.png?v=2&X-Amz-Signature=abcdef"
    ledger = Ledger(ObjectStore(bucket), "b")
    prompt = ImagePrompt(prompt="a", reference_image_urls=[url])
    request = ImageRequest(prompt="a", reference_image_urls=(url,))
    ledger.write(Record(key="k1", prompt=prompt, request=request))
    written = (folder / "b/records/k1.json").read_text("utf-8")
    assert "abcdef" not in written
    assert "secret" not in written
    assert "v=2" in written
