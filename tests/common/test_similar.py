"""Pictures that look alike are found, and others are not."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from prefect_nanobanana._common.similar import MOST_BITS, difference_hash, near_duplicates
from prefect_nanobanana.sandbox.pictures import draw


def _picture(text: str, seed: str) -> Image.Image:
    return Image.open(io.BytesIO(draw(text, seed=seed, longest=256))).convert("RGB")


def _saved(image: Image.Image, kind: str, **options: object) -> Image.Image:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return Image.open(io.BytesIO(out.getvalue()))


def _bits(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("seed", range(6))
def test_the_same_picture_otherwise_saved_is_found(seed: int) -> None:
    whole = _picture(f"picture {seed}", str(seed))
    known = difference_hash(whole)
    for other in (
        _saved(whole, "JPEG", quality=40),
        _saved(whole, "WEBP", quality=30),
        whole.resize((90, 90)),
        whole.resize((1000, 1000)),
        ImageEnhance.Brightness(whole).enhance(0.8),
        whole.convert("RGBA"),
    ):
        assert _bits(known, difference_hash(other)) <= MOST_BITS


def test_other_pictures_are_not_taken_for_the_same() -> None:
    hashes = {n: difference_hash(_noise(n)) for n in range(60)}
    assert near_duplicates(hashes) == {}


def _noise(seed: int) -> Image.Image:
    chance = random.Random(seed)
    small = Image.new("RGB", (6, 6))
    small.putdata([tuple(chance.randrange(256) for _ in range(3)) for _ in range(36)])
    return small.resize((256, 256), Image.Resampling.BICUBIC)


def test_the_first_of_those_alike_is_named() -> None:
    base = 0x0123456789ABCDEF
    hashes = {
        "a": f"{base:016x}",
        "b": f"{base ^ 0b111:016x}",
        "c": f"{~base & 2**64 - 1:016x}",
        "d": f"{base:016x}",
    }
    assert near_duplicates(hashes) == {"b": "a", "d": "a"}


@pytest.mark.parametrize(
    "flat", ["", "no hash", "0000000000000000", "ffffffffffffffff", "0000000000000003"]
)
def test_what_has_nothing_to_tell_it_by_is_like_nothing(flat: str) -> None:
    assert near_duplicates({"a": flat, "b": flat}) == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.randoms())
def test_all_pairs_are_found(bases: list[int], chance: random.Random) -> None:
    """As comparing each with each finds them."""
    hashes = {}
    for n, base in enumerate(bases):
        changed = base
        for _ in range(chance.randrange(10)):
            changed ^= 1 << chance.randrange(64)
        hashes[f"{n}a"], hashes[f"{n}b"] = f"{base:016x}", f"{changed:016x}"
    expected: dict[str, str] = {}
    firsts: list[str] = []
    for key, text in hashes.items():
        if not 4 <= int(text, 16).bit_count() <= 60:
            continue
        near = [first for first in firsts if _bits(hashes[first], text) <= MOST_BITS]
        if near:
            expected[key] = near[0]
        else:
            firsts.append(key)
    found = near_duplicates(hashes)
    assert found.keys() == expected.keys()
    assert all(_bits(hashes[key], hashes[found[key]]) <= MOST_BITS for key in found)
