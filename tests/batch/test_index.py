"""The index of a batch's records: it saves reading them, and is never believed against them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from prefect_aws import S3Bucket
from servers import FaultyS3, Seen

from prefect_nanobanana import Generation, ImagePrompt, NanoBananaGenerator, RunReport, StoredImage
from prefect_nanobanana.batch import _index
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._record import Record, State
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.models import ImageRequest
from prefect_nanobanana.s3._store import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

KEYS = [f"{n:024x}" for n in range(40)]
LATE = 3
"""rclone may list the last object that it was given with another tag for a moment; it is read then."""
PREVIEW = "data:image/webp;base64,UklGRgA="


class Counted:
    """A bucket before which requests are counted."""

    def __init__(self, front: FaultyS3, bucket: S3Bucket) -> None:
        self.bucket = bucket
        self.seen: list[str] = []
        front.fault = self._note

    def _note(self, seen: Seen) -> None:
        self.seen.append(f"{seen.method} {seen.path.partition('?')[0]}")

    def ledger(self) -> Ledger:
        """A ledger as a run opens it; from here on requests are counted anew."""
        self.seen.clear()
        return Ledger(ObjectStore(self.bucket), "b")

    @property
    def read(self) -> int:
        """How many records were read one by one, however often boto3 had to ask."""
        return len({each for each in self.seen if each.startswith("GET") and "/records/" in each})


@pytest.fixture
def counted(s3: LocalS3, make_bucket: Any) -> Iterator[Counted]:
    with FaultyS3(s3.endpoint_url) as front:
        yield Counted(front, make_bucket(endpoint_url=front.url))


@pytest.fixture
def folder(s3: LocalS3, counted: Counted) -> Path:
    return s3.folder / counted.bucket.bucket_name / counted.bucket.bucket_folder


def _record(key: str, state: State = "stored", **changes: Any) -> Record:
    prompt = f"prompt {key}"
    image = StoredImage(
        uri=f"s3://pictures/b/images/{key}.png",
        key=f"b/images/{key}.png",
        content_type="image/png",
        size_bytes=1,
        sha256="0" * 64,
        width=1,
        height=1,
        source_url="https://images.example/1.png",
    )
    generation = Generation(status="completed", credits_used=1, model="nano-banana", mode="sync")
    values: dict[str, Any] = {
        "images": {1: image},
        "thumbnails": {1: PREVIEW},
        "generation": generation,
        "credits_used": 1,
        "attempt": f"a{key}",
        **changes,
    }
    return Record(
        key=key,
        prompt=ImagePrompt(prompt=prompt),
        request=ImageRequest(prompt=prompt),
        state=state,
        **values,
    )


@pytest.fixture
def written(counted: Counted, folder: Path) -> Counted:
    """A batch of records that are done with, and its index."""
    ledger = counted.ledger()
    for key in KEYS:
        record, place = _record(key), ledger.key("images", f"{key}.png")
        moved = {"key": place, "uri": ledger.store.uri(place)}
        images = {1: record.images[1].model_copy(update=moved)}
        ledger.write(record.model_copy(update={"images": images}))
    assert ledger.index.save()
    return counted


def test_what_is_done_with_is_not_read_again(written: Counted) -> None:
    ledger = written.ledger()
    found = ledger.read(KEYS)
    assert list(found) == KEYS
    assert found[KEYS[7]].thumbnails == {1: PREVIEW}
    assert written.read <= LATE
    assert len(written.seen) <= 3 + LATE  # a list, and the index
    # What it says is what the records say.
    one_by_one = {key: ledger.read_again(key) for key in KEYS[:5]}
    assert one_by_one == {key: found[key] for key in KEYS[:5]}


def test_a_record_that_was_written_since_is_read(written: Counted) -> None:
    other = written.ledger()
    changed = other.read_again(KEYS[3])
    assert changed is not None
    other.write(changed.model_copy(update={"state": "lost", "message": "gone"}))
    other.write(_record("f" * 24, "unknown", images={}, thumbnails={}))
    found = written.ledger().read([*KEYS, "f" * 24])
    assert found[KEYS[3]].state == "lost"
    assert found["f" * 24].state == "unknown"
    assert 2 <= written.read <= 2 + LATE


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe nonsense", b"[]\n{}\n", b'{"key":"' + KEYS[0].encode() + b'","tag":"x"}'],
    ids=["empty", "bytes", "other JSON", "cut"],
)
def test_a_damaged_index_is_none(written: Counted, folder: Path, content: bytes) -> None:
    (folder / "b/records.jsonl").write_bytes(content)
    assert len(written.ledger().read(KEYS)) == len(KEYS)
    assert written.read == len(KEYS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", "a" * 24),
        ("images", {"1": {"key": "elsewhere/secret.png"}}),
        ("state", "no state"),
    ],
)
def test_a_line_that_no_record_could_be_is_not_believed(
    written: Counted, folder: Path, field: str, value: Any
) -> None:
    path = folder / "b/records.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    record = lines[0]["record"]
    if field == "images":
        record["images"]["1"] |= value["1"]
    else:
        record[field] = value
    path.write_text("\n".join(json.dumps(line, separators=(",", ":")) for line in lines), "utf-8")
    assert len(written.ledger().read(KEYS)) == len(KEYS)
    assert 1 <= written.read <= 1 + LATE, written.seen


def test_what_is_not_done_with_is_in_no_index(counted: Counted, folder: Path) -> None:
    states: list[State] = ["asked", "submitted", "unknown", "generated", "not_charged", "planned"]
    ledger = counted.ledger()
    for key, state in zip(KEYS, states * 5, strict=False):
        ledger.write(_record(key, state, images={}, thumbnails={}))
    assert ledger.index.save()
    assert not (folder / "b/records.jsonl").exists()


def test_an_index_keeps_what_other_lists_of_the_batch_left(written: Counted, folder: Path) -> None:
    ledger = written.ledger()  # its list names none of those
    more = [f"{n:024x}" for n in range(1000, 1030)]
    for key in more:
        ledger.write(_record(key, images={}))
    assert ledger.index.save()
    assert len((folder / "b/records.jsonl").read_bytes().splitlines()) == len(KEYS) + len(more)
    assert len(written.ledger().read([*KEYS, *more])) == len(KEYS) + len(more)
    assert written.read <= LATE


def test_small_pictures_in_it_are_bounded_and_what_is_asked_again_keeps_them(
    counted: Counted, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_index, "THUMBNAIL_BYTES", 2 * len(PREVIEW))
    ledger = counted.ledger()
    for key in KEYS[:30]:
        ledger.write(_record(key, "warning", images={}))
    assert ledger.index.save()
    ledger = counted.ledger()
    found = ledger.read(KEYS[:30])
    assert sum(bool(record.thumbnails) for record in found.values()) == 2
    bare = next(record for record in found.values() if not record.thumbnails)
    assert ledger.whole(bare).thumbnails == {1: PREVIEW}
    assert 1 <= counted.read <= 1 + LATE


@pytest.mark.usefixtures("prefect_server")
def test_a_finished_batch_through_the_flow(
    counted: Counted, folder: Path, generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    prompts = ["nude", *(f"p{n}" for n in range(24))]

    def run(**changes: Any) -> RunReport:
        found: Any = generate_images(
            prompts=prompts, generator=generator, bucket=counted.bucket, batch="b", **changes
        )
        return cast(RunReport, found)

    assert run().credits_used == len(prompts) == sandbox.account.charged
    counted.seen.clear()
    again = run()
    assert (again.credits_used, again.credits_reused, again.stored) == (0, 25, 24)
    assert counted.read <= LATE
    page = (folder / "b/index.html").read_text("utf-8")
    assert page.count("data:image/") >= 24
    counted.seen.clear()
    paid = run(ask_again=["warnings"])
    assert (paid.credits_used, sandbox.account.charged) == (1, len(prompts) + 1)
    assert counted.read <= 3 + LATE  # the one that is asked again
