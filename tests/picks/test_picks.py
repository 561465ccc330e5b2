"""Decisions on images: what the page hands over, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from prefect_aws import S3Bucket
from servers import FaultyS3, s3_error

from prefect_nanobanana import InvalidInput, StorageError
from prefect_nanobanana.picks import Decision, Pick, Picks, read_decisions
from prefect_nanobanana.s3 import ObjectStore

KEY, HASH = "0123456789abcdef01234567", "0" * 64
IMAGES = {(KEY, 1): HASH, (KEY, 2): "1" * 64}


def _handed(*images: dict[str, Any], **changes: Any) -> str:
    whole = [{"prompt_key": KEY, "place": 1, "sha256": HASH, **image} for image in images]
    return json.dumps({"version": 1, "batch": "b", "images": whole, **changes})


def _pick(place: int = 1, **changes: Any) -> Pick:
    settings: dict[str, Any] = {"picked": True, "decided_at": datetime.now(UTC), **changes}
    return Pick(batch="b", prompt_key=KEY, place=place, key="k", sha256=HASH, **settings)


def test_what_the_page_hands_over_is_read() -> None:
    content = _handed(
        {"picked": True, "note": " good "},
        {"place": 2, "sha256": "1" * 64, "picked": False, "note": ""},
    )
    assert read_decisions(content, "picks", "b", IMAGES) == {
        (KEY, 1): Decision(picked=True, note="good"),
        (KEY, 2): Decision(picked=False),
    }


@pytest.mark.parametrize(
    "image",
    [
        {"sha256": "2" * 64},
        {"place": 3},
        {"prompt_key": "f" * 24},
        {"place": 10**30},
        {"prompt_key": "../x"},
    ],
)
def test_an_image_that_is_another_now_is_not_decided_on(image: dict[str, Any]) -> None:
    assert read_decisions(_handed({"picked": True, **image}), "picks", "b", IMAGES) == {}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "picks: "),
        ("[" * 100_000, "picks: "),
        ("[]", "picks: "),
        (b"\xff", "picks: "),
        (_handed(version=2), "version: "),
        (_handed(batch="c"), "is about batch 'c', and not about 'b'"),
        (_handed({"picked": "perhaps"}), "images.0.picked: "),
        (_handed({"picked": True, "note": "x" * 2_001}), "images.0.note: "),
        (_handed({"picked": True, "note": 5}), "images.0.note: "),
        (_handed(images={}), "images: "),
        ("x" * (16 * 1024 * 1024 + 1), "is larger than 16,777,216 bytes"),
    ],
)
def test_what_is_no_such_file_is_said(content: str | bytes, why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_decisions(content, "picks", "b", IMAGES)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "\x1b" not in str(caught.value)


def test_a_new_decision_takes_the_place_of_the_one_before(bucket: S3Bucket) -> None:
    picks = Picks(ObjectStore(bucket), "b")
    assert picks.read() == {}
    picks.add([_pick(1), _pick(2)])
    picks.add([_pick(1, picked=False, note="too dark\u2028é")])
    assert {p.place: (p.picked, p.note) for p in picks.read().values()} == {
        1: (False, "too dark\u2028é"),
        2: (True, None),
    }
    again = picks.read()
    assert picks.add(again.values()) == again


def test_two_reviews_at_once_lose_nothing(make_bucket: Callable[..., S3Bucket], moto_url: str) -> None:
    """Where the store honours conditional writes; the other one writes between reading and writing."""
    bucket = make_bucket(endpoint_url=moto_url, user="x" * 5, secret="y" * 9)
    store = ObjectStore(bucket)
    mine, theirs = Picks(store, "b"), Picks(store, "b")
    written = store.put
    others = [[_pick(2)], [_pick(3)]]

    class Between(ObjectStore):
        def put(self, *args: Any, **kwargs: Any) -> Any:
            if others:
                theirs.add(others.pop())
            return written(*args, **kwargs)

    mine = Picks(Between(bucket), "b")
    mine.add([_pick(1)])
    assert {pick.place for pick in mine.read().values()} == {1, 2, 3}


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b'{"schema_version": 2}',
        b"[" * 100_000,
        b'{"prompt_key": "../x", "place": 1}',
        _pick().model_dump_json().replace('"schema_version":1', '"schema_version":2').encode(),
    ],
)
def test_decisions_that_cannot_be_read_are_not_overwritten(bucket: S3Bucket, line: bytes) -> None:
    store = ObjectStore(bucket)
    content = _pick(1).model_dump_json().encode() + b"\n" + line + b"\n"
    store.put(store.key("b/picks.jsonl"), content, "text/plain")
    picks = Picks(store, "b")
    for act in (picks.read, lambda: picks.add([_pick(2)])):
        with pytest.raises(InvalidInput, match=r"b/picks.jsonl, line 2: "):
            act()
    assert store.find(store.key("b/picks.jsonl")) == (content, store.find(store.key("b/picks.jsonl"))[1])  # type: ignore[index]


def test_a_store_that_takes_no_decisions_is_said(
    bucket: S3Bucket, make_bucket: Callable[..., S3Bucket]
) -> None:
    endpoint = bucket.credentials.aws_client_parameters.endpoint_url
    with FaultyS3(str(endpoint)) as front:
        front.fault = lambda seen: s3_error(412, "PreconditionFailed") if seen.method == "PUT" else None
        store = ObjectStore(make_bucket(endpoint_url=front.url))
        with pytest.raises(StorageError, match="is written by others all the time"):
            Picks(store, "b").add([_pick()])
