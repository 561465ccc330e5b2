"""Prompts as names and metadata of objects."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from urllib.parse import quote

_METADATA_BYTES = 1400
"""S3 allows 2 KB of user metadata per object, names included; rclone counts other headers, too."""


def safe_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Make metadata that S3 takes: ASCII, without line breaks, at most 2 KB in all.

    Args:
        metadata: Names and texts; the last ones are cut first.

    Returns:
        The same, percent-encoded outside printable ASCII; `urllib.parse.unquote` undoes that.
    """
    left = _METADATA_BYTES
    safe = {}
    for name, text in metadata.items():
        left -= len(name)
        encoded = ""
        # Runs of spaces are folded: stores disagree on how they are signed.
        for c in " ".join(text.split()):
            part = c if " " <= c <= "~" and c != "%" else quote(c, safe="")
            if len(part) > left:
                break
            encoded += part
            left -= len(part)
        if encoded:
            safe[name] = encoded.rstrip(" ")
    return safe


def slug(text: str, longest: int = 40) -> str:
    """Make a short name for files: lower-case ASCII letters, digits and dashes.

    Args:
        text: Any text.
        longest: At most so many characters.

    Returns:
        The name; `image` if nothing is left of the text.
    """
    ascii_text = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")
    if len(words) > longest:
        words = words[:longest].rpartition("-")[0] or words[:longest]
    return words.strip("-") or "image"
