"""Writes the tables of columns in `docs/manifest.md` from the code.

    python docs/draw_manifest.py

A test holds the page against the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prefect_nanobanana.manifest import IMAGE_COLUMNS, PROMPT_COLUMNS
from prefect_nanobanana.manifest._columns import Column, ListOf, Struct, Type

PAGE = Path(__file__).resolve().parent / "manifest.md"
MARK = "<!-- written from the code -->\n"


def page(text: str) -> str:
    """The page with its tables as they must be."""
    rows = [_table("Prompts", PROMPT_COLUMNS), _table("Images", IMAGE_COLUMNS)]
    return text.partition(MARK)[0] + MARK + "\n" + "\n".join(rows)


def _table(title: str, columns: tuple[Column, ...]) -> str:
    lines = [f"## {title}", "", "| column | type | what it says |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {kind} | {about} |" for name, kind, about in _rows(columns)]
    return "\n".join(lines) + "\n"


def _rows(columns: tuple[Column, ...], above: str = "") -> Iterator[tuple[str, str, str]]:
    for column in columns:
        name, kind = above + column.name, column.type
        yield name, _type(kind), column.about
        inner: Type = kind.item if isinstance(kind, ListOf) else kind
        if isinstance(inner, Struct):
            yield from _rows(inner.columns, f"{name}.")


def _type(kind: Type) -> str:
    match kind:
        case ListOf(item):
            return f"list of {_type(item)}"
        case Struct():
            return "struct"
        case _:
            return kind


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
