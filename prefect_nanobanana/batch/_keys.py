"""What a prompt and a batch are known by, in every run and in every version of this package."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from prefect_nanobanana._common.addresses import unsigned
from prefect_nanobanana._common.characters import is_word_character, quoted
from prefect_nanobanana._common.references import FOLDER, split_hash, with_hash
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.models import ImagePrompt, ImageRequest
from prefect_nanobanana.s3 import ObjectStore

_MAX_BATCH_CHARACTERS = 200
_OURS = ("images", "records", "records.jsonl", "manifest.jsonl", "index.html")
"""What a batch's own folder holds."""
_OWN_REFERENCE = re.compile(rf"s3://.+/{FOLDER}/([0-9a-f]{{64}})\.[a-z0-9]{{1,8}}")
_BEFORE = re.compile(r"[\w.\-/ ]+")
"""What names of batches consisted of before version 0.2."""


@dataclass(frozen=True)
class PromptKey:
    """What a prompt's record is found by.

    Attributes:
        key: The name of its record: 24 hexadecimal digits.
        former: Other names that earlier versions may have given it, most likely first.
        identity: See `identity`; equal prompts have the same.
    """

    key: str
    former: tuple[str, ...]
    identity: str


def prompt_keys(prompts: Sequence[ImagePrompt], requests: Sequence[ImageRequest]) -> list[PromptKey]:
    """Make the key of each prompt's record.

    A key comes from the prompt's name, or from what is asked; equal ones are told apart by which of
    them each is. The place in the list plays no part, so that moving or inserting prompts pays for
    nothing twice; nor do signatures of references, which are others each day.

    Args:
        prompts: The prompts.
        requests: What the API is asked for each.

    Returns:
        The keys, all different.
    """
    asked = [_asked(prompt, request) for prompt, request in zip(prompts, requests, strict=True)]
    whole = [_text(a) for a in asked]
    bare = [_text(_unsigned(a)) for a in asked]
    keys = _counted(bare, _unsigned_first(bare, whole))
    # Fewer signatures were known once.
    less_bare = [_text(_unsigned(a, as_before=True)) for a in asked]
    former = [_counted(less_bare, _unsigned_first(less_bare, whole))]
    before = [[_text(_as_written_before(a, *cure)) for a in asked] for cure in _CURES]
    former += [_counted(texts, range(len(texts))) for texts in before]
    return [
        # Earlier versions knew no private references.
        PromptKey(
            key,
            () if _has_private(asked[n]) else tuple(dict.fromkeys(f[n] for f in former if f[n] != key)),
            bare[n],
        )
        for n, key in enumerate(keys)
    ]


def identity(prompt: ImagePrompt, request: ImageRequest) -> str:
    """What a prompt has in common with its equals: its name, or what is asked, without signatures."""
    return _text(_unsigned(_asked(prompt, request)))


def signed_anew(
    keys: Sequence[PromptKey], found: Set[str], others: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Find records that earlier versions wrote under keys of signatures that nobody knows any more.

    Args:
        keys: The prompts of a run.
        found: The keys, present or former, under which records were found.
        others: Key and identity of the batch's other records.

    Returns:
        The key of each further record that was found, by the key of its prompt.
    """
    left: dict[str, list[str]] = {}
    for key, its_identity in others:
        left.setdefault(its_identity, []).append(key)
    missing = [key for key in keys if found.isdisjoint((key.key, *key.former))]
    return {key.key: left[key.identity].pop(0) for key in missing if left.get(key.identity)}


def _asked(prompt: ImagePrompt, request: ImageRequest) -> dict[str, Any]:
    return {"name": prompt.name} if prompt.name else request.model_dump()


def _unsigned(asked: dict[str, Any], *, as_before: bool = False) -> dict[str, Any]:
    references = asked.get("reference_image_urls")
    if not references:
        return asked
    bare = [_bare(url, as_before) for url in references]
    return asked | {"reference_image_urls": bare}


def _bare(url: str, as_before: bool) -> str:
    """A reference as far as it says which picture it is; where a batch keeps its own plays no part."""
    uri, digest = split_hash(url)
    own = _OWN_REFERENCE.fullmatch(uri)
    if own is not None and own[1] == digest:
        return with_hash("", digest)
    return unsigned(url, as_before=as_before)


def _has_private(asked: dict[str, Any]) -> bool:
    return any(split_hash(url)[1] for url in asked.get("reference_image_urls", ()))


def _unsigned_first(bare: Sequence[str], whole: Sequence[str]) -> list[int]:
    """The order to count in: unsigned prompts have the keys that they always had."""
    return sorted(range(len(bare)), key=lambda n: bare[n] != whole[n])


def _text(asked: dict[str, Any]) -> str:
    return json.dumps(asked, sort_keys=True, ensure_ascii=False)


_CURES: tuple[tuple[str, str], ...] = (("", ""), ("%2C", ","), ("%2c", ","), ("%20", " "))
"""Commas and blanks in references were taken before, and are refused now with a cure."""


def _as_written_before(asked: dict[str, Any], now: str, before: str) -> dict[str, Any]:
    references = asked.get("reference_image_urls")
    if not references or not now:
        return asked
    return asked | {"reference_image_urls": [url.replace(now, before) for url in references]}


def _counted(identities: Sequence[str], order: Iterable[int]) -> list[str]:
    """A key for each identity; equal ones are counted in this order."""
    seen: Counter[str] = Counter()
    keys = [""] * len(identities)
    for n in order:
        seen[identities[n]] += 1
        text = f"{identities[n]}#{seen[identities[n]]}"
        keys[n] = hashlib.sha256(text.encode()).hexdigest()[:24]
    return keys


def check_batch(batch: str) -> str:
    """Check a batch's name, which becomes a part of S3 keys.

    Returns:
        The name, stripped and composed (NFC): Macs write `café` in another way than all others.

    Raises:
        InvalidInput: If it could leave its prefix, break a key, or lie among another batch's objects.
    """
    name = unicodedata.normalize("NFC", batch.strip())
    parts = name.split("/")
    if len(name) > _MAX_BATCH_CHARACTERS or not all(_is_part(part) for part in parts):
        raise InvalidInput(
            f"batch: {quoted(batch)} cannot name a batch: use letters, digits, spaces, - _ . and single "
            f"slashes, at most {_MAX_BATCH_CHARACTERS} characters"
        )
    inside = next((part for part in parts[1:] if part in _OURS), None)
    if inside is not None:
        raise InvalidInput(
            f"batch: {quoted(batch)} would lie among the objects of batch "
            f"{quoted(name.partition(f'/{inside}')[0])}: call no part after a slash {inside!r}"
        )
    return name


def existing_batch(batch: str, store: ObjectStore) -> str:
    """The name under which a batch has its folder.

    Earlier versions did not compose names: a Korean one that came from a Mac has kept its own folder.

    Args:
        batch: The name, as `check_batch` returns it.
        store: Where the batch is, if it is anywhere.

    Returns:
        The name; in the form of the folder that exists, if that is another.

    Raises:
        StorageError: If the bucket cannot be listed.
    """
    forms = {form: unicodedata.normalize(form, batch) for form in ("NFC", "NFD")}
    if forms["NFD"] == batch or not _BEFORE.fullmatch(forms["NFD"]):
        return batch
    for name in forms.values():
        folder = store.key(name) + "/"
        # Stores on a disk may list what is written in the other way, too.
        if any(each.key.startswith(folder) for each in store.keys(folder)):
            return name
    return batch


def _is_part(part: str) -> bool:
    """Whether this can be one part, between slashes, of a batch's name."""
    bare = part.strip()
    begins = bool(bare) and unicodedata.category(bare[0])[0] != "M"  # a mark belongs to what is before
    return begins and bare not in (".", "..") and all(map(_is_fit, part))


def _is_fit(character: str) -> bool:
    dash = unicodedata.category(character) in ("Pc", "Pd")
    return dash or character in " .·׳״" or is_word_character(character)
