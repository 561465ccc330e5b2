"""What prompts and batches are known by: the same for ever, whoever signs and whatever a Mac writes."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect_aws import S3Bucket

from prefect_nanobanana import ImagePrompt, InvalidInput
from prefect_nanobanana.batch._keys import (
    PromptKey,
    check_batch,
    existing_batch,
    identity,
    prompt_keys,
    signed_anew,
)
from prefect_nanobanana.models import ImageRequest
from prefect_nanobanana.s3 import ObjectStore

FIXTURE = Path(__file__).parents[1] / "fixtures/v0_1/keys_v1.json"
REFERENCE = "https://host.example/ref.png"


def _keys(*prompts: str | ImagePrompt) -> list[str]:
    given = [ImagePrompt(prompt=p) if isinstance(p, str) else p for p in prompts]
    requests = [
        ImageRequest(
            prompt=p.prompt,
            quantity=p.quantity or 1,
            reference_image_urls=tuple(p.reference_image_urls or ()),
        )
        for p in given
    ]
    return [key.key for key in prompt_keys(given, requests)]


def test_keys_do_not_depend_on_the_place_in_the_list() -> None:
    a, b = _keys("a", "b")
    assert _keys("new", "b", "a")[1:] == [b, a]
    assert all(len(key) == 24 and int(key, 16) >= 0 for key in (a, b))


def test_a_text_that_looks_like_a_hash_keeps_its_former_keys() -> None:
    """What an earlier version has paid for is found by them; only private references never had any."""
    prompt = ImagePrompt(
        prompt="a #sha256= of b", reference_image_urls=["https://host.example/a%2Cb.png"]
    )
    request = ImageRequest(
        prompt=prompt.prompt, reference_image_urls=tuple(prompt.reference_image_urls or ())
    )
    (key,) = prompt_keys([prompt], [request])
    assert key.former


def test_equal_prompts_are_told_apart_by_which_of_them_they_are() -> None:
    first, second = _keys("a", "a")
    assert first != second
    assert _keys("a", "x", "a") == [first, *_keys("x"), second]


def test_what_is_asked_makes_the_key_unless_there_is_a_name() -> None:
    assert _keys("a") != _keys(ImagePrompt(prompt="a", quantity=2))
    assert _keys(ImagePrompt(prompt="a", name="n")) == _keys(
        ImagePrompt(prompt="b", name="n", quantity=3)
    )
    assert _keys(ImagePrompt(prompt="n")) != _keys(ImagePrompt(prompt="n", name="n"))


def test_keys_are_the_same_forever() -> None:
    # Records of earlier versions are found by them: a change here pays for everything again.
    assert _keys("a cat", ImagePrompt(prompt="x", name="hero")) == KEYS


KEYS = ["3689bdfa6cfced3ce50ac02a", "1d25e4f7d17b14343617fb59"]


def _refs(*references: str) -> list[PromptKey]:
    """The keys of equal prompts with one reference each."""
    prompts = [ImagePrompt(prompt="a", reference_image_urls=[url]) for url in references]
    return prompt_keys(
        prompts, [ImageRequest(prompt="a", reference_image_urls=(url,)) for url in references]
    )


def test_keys_that_earlier_versions_gave() -> None:
    rows: list[dict[str, Any]] = json.loads(FIXTURE.read_text("utf-8"))
    keys = prompt_keys(
        [ImagePrompt.model_validate(row["prompt"]) for row in rows],
        [ImageRequest.model_validate(row["request"]) for row in rows],
    )
    assert len(rows) == 29
    assert len({key.key for key in keys}) == 29
    for row, key in zip(rows, keys, strict=True):
        signed = not row["prompt"]["name"] and "Signature" in json.dumps(row["request"])
        if signed:
            assert key.key != row["key"]
            assert key.former == (row["key"],)
        else:
            assert key.key == row["key"]
            assert key.former == ()


@pytest.mark.parametrize(
    "signed",
    [
        [f"{REFERENCE}?X-Amz-Date={d}&X-Amz-Signature={s}" for d, s in (("1", "a"), ("2", "b"))],
        [f"{REFERENCE}?X-Goog-Date={d}&X-Goog-Signature={s}" for d, s in (("1", "a"), ("2", "b"))],
        [f"{REFERENCE}?sv=1&se={d}&sig={s}" for d, s in (("1", "a"), ("2", "b"))],
        [f"{REFERENCE}?Expires={d}&Signature={s}&Key-Pair-Id=K" for d, s in (("1", "a"), ("2", "b"))],
    ],
    ids=["AWS", "Google", "Azure", "CloudFront"],
)
def test_a_signature_is_no_identity(signed: list[str]) -> None:
    today, tomorrow = signed
    assert _refs(today)[0].key == _refs(tomorrow)[0].key == _refs(REFERENCE)[0].key
    assert _refs(today)[0].former != _refs(tomorrow)[0].former
    assert _refs(f"{today}&v=2")[0].key == _refs(f"{tomorrow}&v=2")[0].key != _refs(today)[0].key


@pytest.mark.parametrize("other", ["?v=2", "?se=2", "?page=1", "#top", "?x-oss-process=style/a"])
def test_what_else_an_address_says_is_part_of_it(other: str) -> None:
    assert _refs(REFERENCE + other)[0].key != _refs(REFERENCE)[0].key
    assert _refs(REFERENCE + other)[0].former == ()


def test_a_signed_reference_takes_no_key_of_an_unsigned_one() -> None:
    signed = f"{REFERENCE}?X-Amz-Signature=a"
    (alone,) = _refs(REFERENCE)
    first, second = _refs(signed, REFERENCE)
    assert second == alone
    assert first.key not in (alone.key, *alone.former)
    assert [key.key for key in _refs(REFERENCE, signed)] == [second.key, first.key]


@pytest.mark.parametrize(
    ("today", "tomorrow", "before"),
    [
        ("exp=1&sig=a", "exp=2&sig=b", "exp=1"),
        ("md5=a&expires=1", "md5=b&expires=2", "md5=a"),
        ("auth_key=1-a", "auth_key=2-b", "auth_key=1-a"),
        ("v=2&oh=a&oe=1", "v=2&oh=b&oe=2", "v=2&oh=a&oe=1"),
    ],
)
def test_signatures_that_are_known_since_make_no_new_key(today: str, tomorrow: str, before: str) -> None:
    """A record is under the key that was made when only some of the parameters were known."""
    first, second = _refs(f"{REFERENCE}?{today}")[0], _refs(f"{REFERENCE}?{tomorrow}")[0]
    assert first.key == second.key
    (stored,) = _counted_as(f"{REFERENCE}?{before}")
    assert stored in first.former
    equal = _refs(*[f"{REFERENCE}?{today}"] * 2)
    assert equal[0].former[0] == stored
    assert equal[1].former[0] == _counted_as(*[f"{REFERENCE}?{before}"] * 2)[1]


def _counted_as(*references: str) -> list[str]:
    """The keys that version 0.1's rules make of addresses to the letter."""
    asked = [ImageRequest(prompt="a", reference_image_urls=(url,)).model_dump() for url in references]
    texts = [f"{json.dumps(a, sort_keys=True, ensure_ascii=False)}#{n}" for n, a in enumerate(asked, 1)]
    return [hashlib.sha256(text.encode()).hexdigest()[:24] for text in texts]


@pytest.mark.parametrize(
    ("before", "now"), [("a,b", "a%2Cb"), ("a,b", "a%2cb"), ("a b", "a%20b"), ("a,b,c", "a%2Cb%2Cc")]
)
def test_the_cure_of_a_refused_address_costs_nothing(before: str, now: str) -> None:
    old, new = (_refs(f"https://host.example/{path}.png")[0] for path in (before, now))
    assert old.key in new.former
    assert old.former == ()


def test_a_record_under_a_forgotten_signature_is_found() -> None:
    old, other, new = (_refs(f"{REFERENCE}?sig={s}&v={v}")[0] for s, v in (("a", 2), ("a", 3), ("b", 2)))
    others = [(other.former[0], other.identity), (old.former[0], old.identity)]
    assert signed_anew([new], set(), others) == {new.key: old.former[0]}
    assert signed_anew([new], {new.key}, others) == {}
    assert signed_anew([new, *_refs(REFERENCE)], set(), others[1:]) == {new.key: old.former[0]}
    request = ImageRequest(prompt="a", reference_image_urls=(f"{REFERENCE}?v=2",))
    assert identity(ImagePrompt(prompt="a"), request) == old.identity, "records hold no signatures"


GOOD = [
    "a",
    "spring-campaign",
    "daily/2026-11-22",
    " Ferien in Österreich ",
    "हिन्दी में",
    "ตัวอย่าง/ที่นี่",
    "العَرَبِيَّة",
    "עִבְרִית־נִקּוּד",
    "می\u200cخواهم",
    "தமிழ்",
    "한국어",
    "日本語ー１２",
    "col·lecció",
    "images",
    "a/my images",
    "½²",
]
BAD = [
    *("../x", "/x", "x/", "a//b", ".", "a/../b", "a/ .. /b", "a\nb", "a?b", "x" * 201, "", " "),
    *("a\x00b", "a\x1b[31m", "a\u202eb", "\u0301a", "a/\u0301b", "a\\b", "a:b", "😀", "a\u2028b"),
]


@pytest.mark.parametrize("name", GOOD)
def test_batch_names(name: str) -> None:
    assert check_batch(name) == unicodedata.normalize("NFC", name.strip())


@pytest.mark.parametrize("name", BAD)
def test_batch_names_that_could_leave_their_prefix(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot name a batch: use letters") as caught:
        check_batch(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["café", "Ñandú/Österreich", "हिन्दी क़", "한국어", "Ångström", "ガ"])
def test_a_macs_names_are_the_same_batches(name: str) -> None:
    forms = {check_batch(unicodedata.normalize(form, name)) for form in ("NFC", "NFD")}
    assert forms == {unicodedata.normalize("NFC", name)}


@pytest.mark.parametrize(
    "name", ["x/images", "x/records", "x/y/images/z", "x/manifest.jsonl", "x/index.html", "x/records/y"]
)
def test_no_batch_among_the_objects_of_another(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"among the objects of batch 'x(/y)?': call no part after"):
        check_batch(name)


def test_a_folder_that_a_mac_named_before_is_kept(
    make_bucket: Callable[..., S3Bucket], moto_url: str
) -> None:
    store = ObjectStore(make_bucket(endpoint_url=moto_url))
    name = "한국어/봄"
    assert existing_batch(name, store) == name
    old = unicodedata.normalize("NFD", name)
    store.put(store.key(old, "records", "a.json"), b"{}", "application/json")
    assert existing_batch(name, store) == old
    store.put(store.key(name, "records", "a.json"), b"{}", "application/json")
    assert existing_batch(name, store) == name


@pytest.mark.parametrize("name", ["café", "a", "हिन्दी", "日本語"])
def test_nothing_is_looked_for_that_no_version_wrote(name: str) -> None:
    assert existing_batch(name, None) == name  # type: ignore[arg-type]
