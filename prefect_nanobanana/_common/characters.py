"""What texts consist of: what can be sent, and what names are written with."""

from __future__ import annotations

import re
import unicodedata

from prefect_nanobanana._common.text import shortened

_UNSENDABLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Control characters, but for what is white space in a text."""
_JOINERS = "\u200c\u200d"
"""Persian and the scripts of India are not written without them."""
_BLANK_LETTERS = "\u2800\u3164\uffa0\u115f\u1160"
"""Letters and signs by their category, though nothing is drawn of them."""


def is_word_character(character: str) -> bool:
    """Whether this is part of a word in any script: a letter, a mark on one, a digit."""
    return unicodedata.category(character)[0] in "LMN" or character in _JOINERS


def can_be_seen(text: str) -> bool:
    """Whether anything of a text is visible: more than white space, controls and marks on nothing."""
    kinds = {unicodedata.category(c) for c in text if c not in _BLANK_LETTERS}
    return any(kind[0] not in "ZM" and kind not in ("Cc", "Cf") for kind in kinds)


def invisible_problem(text: str) -> str | None:
    """Say which invisible character an address was copied along with, if there is one."""
    found = next((c for c in text if unicodedata.category(c) == "Cf" and c not in _JOINERS), None)
    return None if found is None else f"holds the invisible character U+{ord(found):04X}: remove it"


def quoted(text: str, longest: int = 80) -> str:
    """Text in quotes, for a message; control characters are escaped, and long text is cut."""
    return repr(shortened(text, longest))


def control_problem(text: str) -> str | None:
    """Say which control character of a text cannot be sent, if there is one."""
    found = _UNSENDABLE.search(text)
    if found is None:
        return None
    return (
        f"character {found.start() + 1} is the control character U+{ord(found[0]):04X}, which cannot be "
        "sent: remove it"
    )
