"""Prompts of texts with variables: filled in, for each combination of a matrix."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana._common.references import bare_reference
from prefect_nanobanana._common.text import well_formed, without_signatures
from prefect_nanobanana.batch._tables import COLUMNS, TableRow, unknown_column
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.models import ImagePrompt, PromptTemplate

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|[{}]")
_TEXTS = ("prompt", "name", "model", "aspect_ratio")
_SHOWN = 12
Variables = tuple[tuple[str, str], ...]
"""Names and values."""
MOST_COMBINATIONS = 1_000_000
"""Those that are left out included: each is looked at."""


class Templates:
    """Makes the prompts of a list.

    Without a template a row is one if its text names a column of its own, as `{product}`. All else is
    left as it is, braces included.

    Args:
        template: What the call was given; None if nothing.
        most: How many prompts a run may have: of more combinations only the first are made.

    Raises:
        InvalidInput: If there are far too many combinations, or all are left out.
    """

    def __init__(self, template: PromptTemplate | None, most: int) -> None:
        self._template = template
        self._combinations: list[dict[str, str]] = [{}]
        self._made: dict[str, str] = {}
        self._text_used = False
        if template is not None:
            if template.combinations > MOST_COMBINATIONS:
                raise InvalidInput(
                    f"matrix: has {template.combinations} combinations: give fewer values"
                )
            names = list(template.matrix)
            made = (
                dict(zip(names, values, strict=True))
                for values in itertools.product(*template.matrix.values())
            )
            excluded: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
            for each in template.exclude:
                if each:
                    its = tuple(sorted(each))
                    excluded.setdefault(its, set()).add(tuple(each[name] for name in its))
            kept = (
                one
                for one in made
                if not any(tuple(one[n] for n in its) in out for its, out in excluded.items())
            )
            self._combinations = list(itertools.islice(kept, min(template.limit or most, most) + 1))
            if not self._combinations:
                raise InvalidInput("template: exclude leaves no combination: remove some of it")

    @property
    def text(self) -> str | None:
        """The text of rows without a prompt, which may be empty; None without a template."""
        return None if self._template is None else self._template.text or ""

    @property
    def limit(self) -> int | None:
        """How many prompts are made at most."""
        return self._template.limit if self._template is not None else None

    def fill(self, place: str, row: Any) -> Iterator[tuple[str, Any, Variables]]:
        """Make the prompts of a row.

        Args:
            place: Where it stands.
            row: A text, a prompt, or an object with columns.

        Yields:
            Each one, as such a row: where it comes from, the row, and what its variables stand for.

        Raises:
            InvalidInput: If a variable is missing, or a combination would be asked for twice.
        """
        template = self._template
        fields = _fields(row) if template is not None or isinstance(row, dict) else None
        if fields is None:
            yield place, row, ()
            return
        extra = {name: value for name, value in fields.items() if name not in COLUMNS}
        own = {name: value for name, value in fields.items() if name in COLUMNS}
        if (
            template is not None
            and template.text is not None
            and not str(own.get("prompt") or "").strip()
        ):
            own["prompt"] = template.text
            self._text_used = True
        named = _names(own) if template is not None or extra else set[str]()
        if template is None:
            if not named & extra.keys():  # of a table's row other rows name them
                yield place, own if isinstance(row, TableRow) else row, ()
                return
            unused = [name for name in extra if name not in named]
            if unused and not isinstance(row, TableRow):
                raise InvalidInput(*map(unknown_column, unused))
        for name in named & extra.keys():
            if name != well_formed(name):
                raise InvalidInput(f"the column {quoted(name)} holds half of a character: rename it")
        constants = template.variables if template is not None else {}
        columns = {name: _text(value) for name, value in extra.items()}
        idle = [name for name in self._combinations[0] if name not in named]
        if idle:
            raise InvalidInput(
                f"matrix: nothing here names {{{idle[0]}}}, so each of its values would be asked, and "
                "paid, for the same: name it in the text, or remove it"
            )
        twice = sorted(extra.keys() & self._combinations[0].keys())
        if twice:
            raise InvalidInput(f"matrix: {quoted(twice[0])} is a column of the list, too: rename one")
        new = template is not None and bool(named or own.get("prompt", "") == template.text)
        for one in self._combinations:
            values = {**constants, **columns, **one}
            where = ", ".join(f"{name} {quoted(value, 30)}" for name, value in one.items())
            made = f"{place} ({where})" if where else place
            filled = _filled(own, values)
            if new:
                self._check_new(made, filled)
            yield made, filled, _told(values, named, filled)

    def check_used(self) -> None:
        """Refuse a text that no row has used: it was meant for some.

        Raises:
            InvalidInput: If there is one.
        """
        if self.text and not self._text_used:
            raise InvalidInput(
                "template: no row uses its text, as all have a prompt of their own: leave one out, or "
                "give the rows' text a column of another name"
            )

    def _check_new(self, place: str, filled: dict[str, Any]) -> None:
        """Refuse what another row or combination has made already, and would be paid again."""
        text = json.dumps(filled, sort_keys=True, default=str)
        before = self._made.setdefault(text, place)
        if before != place:
            raise InvalidInput(
                f"the template makes of it what it makes of {before}: name a column that tells them "
                "apart, or ask for more images with quantity"
            )


def _told(
    values: Mapping[str, str | None], named: Collection[str], filled: Mapping[str, Any]
) -> Variables:
    """What variables stand for, as it may be kept: what is still to be seen in what was made of them.

    A variable may be all that signs an address, or a part of it, which is nowhere kept.
    """
    references = filled.get("reference_image_urls")
    urls = references if isinstance(references, list) else []
    seen = [*(str(filled.get(name) or "") for name in _TEXTS), *(bare_reference(str(u)) for u in urls)]
    told = ((name, without_signatures(values[name] or "")) for name in values if name in named)
    return tuple((name, value if any(value in text for text in seen) else "...") for name, value in told)


def _fields(row: Any) -> dict[str, Any] | None:
    """A row as an object with columns; None of what is no row."""
    if isinstance(row, str):
        return {"prompt": row}
    if isinstance(row, ImagePrompt):
        return row.model_dump(exclude_none=True)
    return dict(row) if isinstance(row, dict) else None


def _texts(fields: Mapping[str, Any]) -> Iterator[str]:
    yield from (fields[name] for name in _TEXTS if isinstance(fields.get(name), str))
    references = fields.get("reference_image_urls")
    if isinstance(references, list):
        yield from (url for url in references if isinstance(url, str))


def _names(fields: Mapping[str, Any]) -> set[str]:
    """The variables that the texts of a row name."""
    found = (match[1] for text in _texts(fields) for match in _TOKEN.finditer(text))
    return {name.strip() for name in found if name}


def _filled(fields: Mapping[str, Any], values: Mapping[str, str | None]) -> dict[str, Any]:
    filled = dict(fields)
    for name in _TEXTS:
        if isinstance(filled.get(name), str):
            filled[name] = _fill(name, filled[name], values)
    references = filled.get("reference_image_urls")
    if isinstance(references, list):
        filled["reference_image_urls"] = [
            _fill("reference_image_urls", url, values) if isinstance(url, str) else url
            for url in references
        ]
    return filled


def _fill(field: str, text: str, values: Mapping[str, str | None]) -> str:
    def value(match: re.Match[str]) -> str:
        token, name = match[0], (match[1] or "").strip()
        if token in ("{{", "}}"):
            return token[0]
        if len(token) == 1 or not name:
            raise InvalidInput(f"{field}: a {token[0]} that is meant as one is written {token[0] * 2}")
        if name not in values:
            there = ", ".join(sorted(values)[:_SHOWN]) or "none"
            raise InvalidInput(
                f"{field}: there is no variable {quoted(name)}; there are: {there}. Braces that are "
                f"meant as such are written {{{{{name}}}}}"
            )
        found = values[name]
        if found is None:
            raise InvalidInput(f"{field}: the variable {quoted(name)} has no value here: give it one")
        return found

    return _TOKEN.sub(value, text)


def _text(value: Any) -> str | None:
    """A column's value as text; None if there is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        whole = math.isfinite(value) and value.is_integer()
        return str(int(value)) if whole else repr(value) if math.isfinite(value) else None
    if isinstance(value, int):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None
