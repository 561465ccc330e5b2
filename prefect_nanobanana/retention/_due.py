"""Which images of a batch a policy names now. Nothing is changed here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import NamedTuple, Protocol
from unicodedata import normalize

from prefect_nanobanana.models import PickStatus, RetentionPolicy, StoredImage

_HASH = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[0-9a-f]{24}")


class Decided(Protocol):
    """What people decided on an image."""

    @property
    def picked(self) -> bool:
        """Whether it is kept."""

    @property
    def decided_at(self) -> datetime:
        """When that was taken over."""


class RecordedImage(NamedTuple):
    """An image, as a record names it.

    Attributes:
        prompt_key: The key of its prompt.
        place: Which of the prompt's images it is, from 1.
        image: What was stored.
        pick: What was decided on its bytes; None if nothing was.
    """

    prompt_key: str
    place: int
    image: StoredImage
    pick: Decided | None

    @property
    def status(self) -> PickStatus:
        """What was decided, in a word."""
        if self.pick is None:
            return "undecided"
        return "kept" if self.pick.picked else "rejected"


@dataclass(frozen=True)
class DueImage:
    """An image that a policy names.

    Attributes:
        recorded: Which.
        policy: The policy.
    """

    recorded: RecordedImage
    policy: RetentionPolicy


def names_batch(policy: RetentionPolicy, batch: str) -> bool:
    """Whether a policy concerns a batch, by its name."""
    pattern = normalize("NFC", policy.batches).replace("[", "[[]")
    return fnmatchcase(normalize("NFC", batch), pattern)


def due_images(
    batch: str,
    recorded: Iterable[RecordedImage],
    sizes: Mapping[str, int],
    folder: str,
    policies: Sequence[RetentionPolicy],
    written_at: datetime,
    now: datetime,
) -> tuple[list[DueImage], list[str]]:
    """Find the images that policies name: the first whose batches and images fit counts.

    An image that is not there is not named, nor one that is not what its record says. One that several
    records claim is named only if policies name it for all of them.

    Args:
        batch: The batch's name.
        recorded: Its images, by its records.
        sizes: What lies in its folder `images/`: sizes in bytes, by key.
        folder: That folder's key.
        policies: The policies, in their order.
        written_at: When a record or an image of the batch was written last.
        now: The time that ages are counted to.

    Returns:
        What is named, and what would be if it were what its record says.
    """
    claims: dict[str, list[tuple[RecordedImage, RetentionPolicy | None]]] = {}
    mine = [policy for policy in policies if names_batch(policy, batch)]
    for each in recorded:
        policy = next((policy for policy in mine if each.status in policy.images), None)
        named = policy if policy and _is_old(policy, each, written_at, now) else None
        claims.setdefault(each.image.key, []).append((each, named))
    due, odd = [], []
    for key, claimed in claims.items():
        first, policy = claimed[0]
        if key not in sizes or policy is None or any(other is None for _, other in claimed):
            continue
        if len(claimed) > 1 or not _is_what_it_says(first, sizes[key], folder):
            odd.append(key)
        else:
            due.append(DueImage(first, policy))
    return due, odd


def _is_old(policy: RetentionPolicy, each: RecordedImage, written_at: datetime, now: datetime) -> bool:
    last = max(written_at, each.pick.decided_at) if each.pick is not None else written_at
    return now - last >= timedelta(days=policy.after_days)


def _is_what_it_says(each: RecordedImage, size: int, folder: str) -> bool:
    image = each.image
    known = _KEY.fullmatch(each.prompt_key) and _HASH.fullmatch(image.sha256) and 1 <= each.place < 10**6
    return bool(known) and image.key.rpartition("/")[0] == folder and size == image.size_bytes
