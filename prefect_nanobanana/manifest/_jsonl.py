"""Rows as JSON: one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from prefect_nanobanana.manifest._rows import Row

CONTENT_TYPE = "application/x-ndjson"
_LINE_ENDS = {c: f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}
"""Many programs end a line at these, too: they are written as escapes."""


def jsonl(rows: Iterable[Row]) -> bytes:
    """The rows as JSON, one to a line."""
    return "".join(map(_line, rows)).encode()


def _line(row: Row) -> str:
    line = json.dumps(row, ensure_ascii=False, default=_text)
    if not line.isascii():
        for end, escape in _LINE_ENDS.items():
            line = line.replace(end, escape)
    return f"{line}\n"


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    raise TypeError(f"no column holds a {type(value).__name__}")
