"""Texts for people: shortened, counted, and safe where they are shown."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from prefect_nanobanana._common.addresses import (
    LONGEST_SHOWN,
    without_loose_signatures,
    without_signature,
)

SHOWN_CHARACTERS = 200
"""As many of a prompt, an address or an API's message fit into a line, a log or a table."""
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}:(?:\\?/){2}[^\s\"'<>]+", re.IGNORECASE)
"""With its slashes escaped, too, as some write them in JSON."""
_MARKUP = frozenset("&<>\"'*_`[]|~#\\$")
"""Signs of HTML and markdown, which a table cell of markdown obeys too."""


def shortened(text: str, longest: int = SHOWN_CHARACTERS) -> str:
    """The text, cut to at most `longest` characters, the three dots that then end it included."""
    return text if len(text) <= longest else text[: longest - 3].rstrip() + "..."


def visible(text: str) -> str:
    r"""The text as a terminal may be given it: escape sequences are shown (`\x1b[31m`), not obeyed.

    Line breaks and tabs stay. Controls that reverse the direction of text are shown too, as they can
    make a line look like another.
    """
    if text.isprintable():
        return text
    return "".join(_shown(c) for c in text)


def _shown(c: str) -> str:
    # Half a character (a file's name may hold it) could not be written at all.
    obeyed = unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"
    return c.encode("unicode_escape").decode() if obeyed or c in _BIDI_CONTROLS else c


def well_formed(text: str) -> str:
    """The text with a mark for each half of a character, which could not be written as UTF-8."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def without_signatures(text: str) -> str:
    """The text, whose addresses hold neither userinfo nor signature, and are not endless."""
    clean = _URL.sub(lambda found: without_signature(_unescaped(found[0]), LONGEST_SHOWN), text)
    return without_loose_signatures(clean)


def _unescaped(url: str) -> str:
    return url.replace("\\/", "/").replace("\\u0026", "&")


def presentable(text: str) -> str:
    """The text as an error may say it, whatever it quotes: see `visible` and `without_signatures`."""
    return visible(without_signatures(text))


def plain(text: str, longest: int | None = SHOWN_CHARACTERS) -> str:
    """The text as markdown and HTML show it to the letter.

    Args:
        text: Any text.
        longest: Characters at most; None for all of them.
    """
    shown = visible(text)
    short = shown if longest is None else shortened(shown, longest)
    encoded = "".join(f"&#{ord(c)};" if c in _MARKUP else c for c in short)
    return "<br>".join(encoded.splitlines())


def number(value: int | float | Decimal) -> str:
    """A number with at most two decimals, as a third of a credit has endless ones."""
    return str(value) if isinstance(value, int) else f"{value:.2f}".rstrip("0").rstrip(".")


def counted(value: int | float | Decimal, what: str) -> str:
    """A number of things, as `1 credit` or `2 credits`."""
    return f"{number(value)} {what}" + ("" if value == 1 else "s")


def pictures_note(came: int, asked: int) -> str | None:
    """Says so if another number of pictures came than was asked for."""
    return None if came == asked else f"{counted(came, 'picture')} came, {asked} asked for"


def in_credits(amount: int | float | Decimal) -> str:
    """An amount, as `1 credit`."""
    return counted(amount, "credit")


def in_bytes(size: int) -> str:
    """A size, as `1.2 MB`."""
    if size < 1000:
        return counted(size, "byte")
    if size < 1_000_000:
        return f"{size / 1000:.0f} kB"
    return f"{size / 1_000_000:.1f} MB" if size < 1_000_000_000 else f"{size / 1_000_000_000:.1f} GB"
