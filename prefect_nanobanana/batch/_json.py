"""Lists of prompts as JSON and JSON Lines: one value after another, each with its line."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana.errors import InvalidInput

LINE_END = re.compile(r"\r\n|\r|\n")
"""Not what splitlines() takes for one: texts may hold form feeds, U+2028 and their like."""
_SPACE = re.compile(r"\s*")
_JSON_CURE = "double quotes around texts, commas between values and none behind the last, no comments"


class _Json:
    """Reads one JSON value after another, and knows the line of each."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._at, self._line, self._counted = 0, 1, 0
        self._decoder = json.JSONDecoder(object_pairs_hook=_once)

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Pass a character."""
        self._at += 1

    def value(self) -> tuple[int, Any]:
        """Read a value, and say at which line it begins."""
        self.peek()
        try:
            value, end = self._decoder.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            self._at = error.pos
            raise self.wrong(f"is not JSON: {error.msg}: write {_JSON_CURE}") from None
        except RecursionError:
            raise self.wrong("is nested too deeply: give a text or an object for each prompt") from None
        except ValueError as error:
            raise self.wrong(str(error)) from None
        line, self._at = self._line_here(), end
        return line, value

    def wrong(self, why: str) -> InvalidInput:
        """What is wrong here."""
        return InvalidInput(f"{self._name}, line {self._line_here()}: {why}")

    def _line_here(self) -> int:
        self._line += len(LINE_END.findall(self._text, self._counted, self._at))
        self._counted = self._at
        return self._line


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise ValueError(f"{quoted(names.most_common(1)[0][0])} is there twice: remove one")
    return found


def json_rows(name: str, text: str, _: str | None) -> Iterator[tuple[int, Any]]:
    """The values of an array, or those that stand one after another, as in JSON Lines.

    Args:
        name: The file's name, for errors.
        text: What is in it.

    Yields:
        The line of each, and what is there.

    Raises:
        InvalidInput: If it is not JSON; names file, line and cure.
    """
    found = _Json(name, text)
    if found.peek() != "[":
        while found.peek():
            yield found.value()
        return
    after = "["
    while after != "]":
        found.skip()
        if after == "[" and found.peek() == "]":
            found.skip()
            break
        yield found.value()
        after = found.peek()
        if after not in (",", "]") or not after:
            raise found.wrong("is not JSON: a comma or the ] at the end is missing")
    else:
        found.skip()
    if found.peek():
        raise found.wrong("is not JSON: nothing may follow the array")
