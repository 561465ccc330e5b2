"""The names under which things are kept: prompts' keys, and batches."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.models import ImagePrompt, ImageRequest

_MAX_BATCH_CHARACTERS = 200


@dataclass(frozen=True)
class PromptKey:
    """Under what a prompt's record is kept.

    Attributes:
        key: 24 hexadecimal digits.
        former: Under what earlier versions kept it, where that differs.
    """

    key: str
    former: tuple[str, ...] = ()


def prompt_keys(prompts: Sequence[ImagePrompt], requests: Sequence[ImageRequest]) -> list[PromptKey]:
    """Make the key of each prompt's record.

    A key comes from the prompt's name, or from what is asked; equal ones are told apart by which of
    them each is. The place in the list plays no part, so that moving or inserting prompts pays for
    nothing twice.

    Args:
        prompts: The prompts.
        requests: What the API is asked for each.

    Returns:
        Their keys, all different.
    """
    seen: Counter[str] = Counter()
    keys: list[PromptKey] = []
    for prompt, request in zip(prompts, requests, strict=True):
        asked = {"name": prompt.name} if prompt.name else request.model_dump()
        identity = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        seen[identity] += 1
        digest = hashlib.sha256(f"{identity}#{seen[identity]}".encode()).hexdigest()
        keys.append(PromptKey(digest[:24]))
    return keys


def check_batch(batch: str) -> str:
    """Check a batch's name, which becomes a part of S3 keys.

    Returns:
        The name, stripped.

    Raises:
        InvalidInput: If it could leave its prefix or break a key.
    """
    name = batch.strip()
    parts = name.split("/")
    if (
        not re.fullmatch(r"[\w.\-/ ]+", name)
        or len(name) > _MAX_BATCH_CHARACTERS
        or any(part.strip() in ("", ".", "..") for part in parts)
    ):
        raise InvalidInput(
            f"batch: {batch[:80]!r} cannot name a batch: use letters, digits, spaces, - _ . and single "
            f"slashes, at most {_MAX_BATCH_CHARACTERS} characters"
        )
    return name
