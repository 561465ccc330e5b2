"""Pictures that are written out where a URL should be."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from prefect_nanobanana.images._kinds import kind_of

_HEAD = re.compile(r"\s*(data:)?([^,]{0,1000}),", re.IGNORECASE)
_BASE64 = re.compile(r";?\s*base64\s*$", re.IGNORECASE)
_ALPHABET = re.compile(r"[A-Za-z0-9+/_-]+=*")


def is_inline(text: str) -> bool:
    """Whether a text is a picture itself: a `data:` URL, or base64."""
    start = text[:1200].lstrip()
    if start[:5].lower() == "data:":
        return True
    found = _HEAD.match(start)
    if found and "://" not in found[2]:
        return _BASE64.search(found[2]) is not None
    return is_base64(text)


def is_base64(text: str) -> bool:
    """Whether a text is a picture in base64, with nothing before it."""
    start = "".join(text[:200].split())
    if len(start) < 24 or not _ALPHABET.fullmatch(start):
        return False
    try:
        return kind_of(_from_base64(start[: len(start) // 4 * 4].encode())) is not None
    except ValueError:
        return False


def decode_inline(text: str) -> bytes:
    """Decode what `is_inline` says yes to, in any form that browsers take.

    That is without padding, in the alphabet for URLs, with line breaks or percent-encoded, in any case.

    Raises:
        ValueError: If it cannot be read.
    """
    found = _HEAD.match(text)
    if found is None:
        if not is_base64(text):
            raise ValueError
        return _from_base64(text.encode())
    # What follows a # is not sent anywhere, and not part of the data.
    body = unquote_to_bytes(text[found.end() :].partition("#")[0])
    named = _BASE64.search(found[2]) is not None
    return _from_base64(body) if named or is_base64(body[:200].decode("latin-1")) else body


def _from_base64(body: bytes) -> bytes:
    signs = b"".join(body.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(signs + b"=" * (-len(signs) % 4), validate=True)
    except binascii.Error:
        raise ValueError from None
