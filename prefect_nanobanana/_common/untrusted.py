"""What the records in a bucket claim, read as if a stranger had written them.

Whoever may write into the bucket may have: such a record must not put markup into pages, nor have us
sign links to objects that are not its batch's.
"""

from __future__ import annotations

import re

PREVIEW_CHARACTERS = 100_000
"""Previews of 256 pixels have some 10,000; noise at full size has less than this."""
_PREVIEW = re.compile(r"data:image/(?:webp|png|jpeg|gif|avif);base64,[A-Za-z0-9+/]+={0,2}")


def is_preview(text: str) -> bool:
    """Whether a text is a small picture as a `data:` URL, and nothing besides."""
    return len(text) <= PREVIEW_CHARACTERS and _PREVIEW.fullmatch(text) is not None


def is_below(key: str, folder: str) -> bool:
    """Whether an object's key lies below a folder, also for browsers, to which `..` leads out of it.

    Args:
        key: The whole key.
        folder: The folder's, with or without a slash at its end.
    """
    base = folder.rstrip("/") + "/"
    parts = key.removeprefix(base).split("/")
    return key.startswith(base) and not {"", ".", ".."} & set(parts)
