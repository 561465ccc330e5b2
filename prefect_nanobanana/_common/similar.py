"""Pictures that look alike, by a hash of what they look like.

A difference hash (dHash): is each of 8 by 8 spots brighter than the one to its right? It survives
another size, format and quality. The package imagehash has the same, and brings NumPy, SciPy and
PyWavelets for it; here it is a few lines over Pillow, which is there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from itertools import pairwise
from typing import Protocol, TypeVar

from PIL import Image

K = TypeVar("K", bound=Hashable)
SIZE = 8
MOST_BITS = 6
"""Hashes of near-duplicates differ in no more of their 64 bits."""
_FLAT = 4
"""So few bits set, or not set, and there is nothing to tell pictures apart by."""


def difference_hash(image: Image.Image) -> str:
    """The hash of a picture: 16 hexadecimal digits.

    Args:
        image: The picture, upright; it stays as it is.
    """
    small = image.convert("L").resize((SIZE + 1, SIZE), Image.Resampling.BOX)
    pixels = list(small.tobytes())
    bits = 0
    for row in range(SIZE):
        line = pixels[row * (SIZE + 1) : (row + 1) * (SIZE + 1)]
        for left, right in pairwise(line):
            bits = bits << 1 | (left > right)
    return f"{bits:016x}"


class Hashed(Protocol):
    """An image, and what it looks like."""

    @property
    def key(self) -> str:
        """What it is known by."""

    @property
    def perceptual_hash(self) -> str | None:
        """See `difference_hash`."""


def lookalikes(images: Iterable[Hashed]) -> dict[str, str]:
    """Find images that look like an earlier one; see `near_duplicates`."""
    return near_duplicates({image.key: image.perceptual_hash or "" for image in images})


def near_duplicates(hashes: Mapping[K, str]) -> dict[K, K]:
    """Find pictures that look like an earlier one.

    Args:
        hashes: Their hashes, in order; texts that are none are passed over.

    Returns:
        For each that looks like an earlier one, the first that it looks like.
    """
    buckets: dict[tuple[int, int], list[tuple[int, K]]] = {}
    found: dict[K, K] = {}
    for key, text in hashes.items():
        try:
            bits = int(text, 16)
        except ValueError:
            continue
        if not _FLAT <= bits.bit_count() <= SIZE * SIZE - _FLAT:
            continue
        # Of eight bytes one at least is the same if no more than seven bits differ.
        places = [(n, bits >> 8 * n & 0xFF) for n in range(SIZE)]
        near = (
            first
            for place in places
            for other, first in buckets.get(place, ())
            if (bits ^ other).bit_count() <= MOST_BITS
        )
        first = next(near, None)
        if first is not None:
            found[key] = first
            continue
        for place in places:
            buckets.setdefault(place, []).append((bits, key))
    return found
