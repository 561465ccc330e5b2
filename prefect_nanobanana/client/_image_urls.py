"""Where the images of an answer are, in all the forms that were seen. No I/O here."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin

from prefect_nanobanana.client._payload import parse, text_of

RESERVE = 4
"""So many more URLs are kept than images were asked for."""
MAX_URL_CHARACTERS = 16_384
_NAMED = ("imageurls", "outputimageurls", "imageurl", "outputimageurl")
"""Names of fields, in lower case and without underscores."""
_GENERAL = ("output", "outputs", "images", "image", "result", "results", "data")
"""Fields that may as well hold something else, as what was sent."""
_IN_OBJECTS = (
    *_NAMED,
    *("url", "urls", "uri", "src", "downloadurl", "images", "image", "b64json", "base64", "data"),
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://|//?[^/\s]|data:", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{64,}={0,2}")
_WITHOUT_SCHEME = re.compile(r"([\w.+-]+/[\w.+-]+)?[;\s]*base64\s*,", re.IGNORECASE)
"""How a `data:` URL goes on, where its scheme was left out."""
_BETWEEN = re.compile(r",[ \n]|\n|[ ,](?=https?://|data:)|[ ](?=//?[^/\s])", re.IGNORECASE)
"""What stands between URLs in one text; a blank alone may belong to one."""
_ANY_BLANK = re.compile(r",?[ \n]|,(?=https?://|data:)", re.IGNORECASE)
"""The same where a text may say something else, too."""
_KINDS = {
    b"\xff\x0a": "image/jxl",
    b"\0\0\0\x0cJXL ": "image/jxl",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"\x1aE\xdf\xa3": "video/webm",
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
    b"BM": "image/bmp",
}


def urls_of(
    facts: Mapping[str, Any], base_url: str, quantity: int, *, named_only: bool = False
) -> tuple[tuple[str, ...], int]:
    """Find the URLs of images.

    Args:
        facts: What the answer says.
        base_url: The API's address, against which relative URLs are resolved.
        quantity: How many images were asked for.
        named_only: Whether to look only where nothing but made images can be.

    Returns:
        The URLs, at most `quantity` and a small reserve; and how many more there were.
    """
    fields = _fields(facts)
    if isinstance(fields.get("data"), dict):
        del fields["data"]  # an envelope, whose content is among the facts
    for field in _NAMED if named_only else (*_NAMED, *_GENERAL):
        sure = field in _NAMED
        texts = _texts(fields.get(field), sure)
        whole = (_whole(base_url, text, sure=sure) for text in texts)
        found: list[str] = []
        seen: set[str] = set()  # an answer may name very many
        for url in whole:
            # An address that is named twice is one image; pictures that are alike are each paid for.
            if url is not None and (url not in seen or url.startswith("data:")):
                found.append(url)
                seen.add(url)
        if found:
            most = max(1, quantity) + RESERVE
            return tuple(found[:most]), max(0, len(found) - most)
    return (), 0


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by names as this module writes them; of those that differ in form only, the first."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        if value is not None:
            named.setdefault(name.replace("_", "").lower(), value)
    return named


def _texts(value: Any, sure: bool, depth: int = 0) -> Iterator[str]:
    """The texts in which URLs may stand: one, a list, objects that name them, or JSON in a text."""
    if isinstance(value, str):
        text = text_of(value)
        if text is None:
            return
        inside = None
        if text.startswith(("[", "{", '"')) and depth == 0:
            with suppress(ValueError):
                inside = parse(text.encode())
        if inside is not None:
            yield from _texts(inside, sure, 1)
        elif text[:5].lower() == "data:":
            yield from re.split(r"[,\s](?=data:[^,\s]{0,200},)", text, flags=re.IGNORECASE)
        elif depth == 0 and _picture(text) is None:
            blanks = re.sub(r"\s+", lambda found: "\n" if "\n" in found[0] else " ", text)
            yield from filter(None, (_BETWEEN if sure else _ANY_BLANK).split(blanks))
        else:
            yield text
    elif isinstance(value, list) and depth < 3:
        for item in value:
            yield from _texts(item, sure, depth + 1)
    elif isinstance(value, dict) and depth < 3:
        fields = _fields(value)
        for field in _IN_OBJECTS:
            found = list(_texts(fields.get(field), sure, depth + 1))
            if found:
                yield from found
                return


def _whole(base_url: str, text: str, *, sure: bool) -> str | None:
    """An image's URL as it can be fetched; None if the text is no URL."""
    picture = _picture(text)
    if picture is not None:
        return picture
    if not sure and not _ADDRESS.match(text):
        return None
    if len(text) > MAX_URL_CHARACTERS and text[:5].lower() != "data:":
        return None
    if _SCHEME.match(text):
        return text  # to the letter: signatures are over the exact text
    try:
        return urljoin(base_url.rstrip("/") + "/", text)
    except ValueError:
        return text  # it cannot be fetched, but what was paid is still told


def _picture(text: str) -> str | None:
    """The `data:` URL of a picture in base64, bare or without its scheme; None for any other text."""
    named = _WITHOUT_SCHEME.match(text[:200])
    if named is not None:
        return f"data:{named[1] or ''};base64,{text[named.end() :]}"
    start = "".join(text[:200].split())
    if not _BASE64.match(start):
        return None
    head = base64.urlsafe_b64decode(start[:32].replace("+", "-").replace("/", "_"))
    kind = next((kind for magic, kind in _KINDS.items() if head.startswith(magic)), None)
    if kind is None and head[4:8] == b"ftyp":
        kind = "image/avif" if head[8:11] == b"avi" else "application/octet-stream"
    whole = "".join(text.split())
    return f"data:{kind};base64,{whole}" if kind and _BASE64.fullmatch(whole) else None
