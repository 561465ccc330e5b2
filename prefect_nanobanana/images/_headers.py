"""An answer's headers as browsers read them: a line that is none is passed over, and spoils no other."""

from __future__ import annotations

import re
from typing import Any

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:(.*)", re.DOTALL)


class HeaderLines:
    """Reads lines of headers, and all else as what it is made of does.

    The library that reads headers stops at the first line that is none, and takes those that follow for
    text: the length and the encoding of a body would be lost.

    Args:
        file: What the answer comes from.
    """

    def __init__(self, file: Any) -> None:
        self.file = file

    def readline(self, limit: int = -1) -> bytes:
        """Read the next line that is a header, goes on with one, or ends them."""
        while True:
            line: bytes = self.file.readline(limit)
            if not line.strip() or line[:1] in b" \t" or 0 < limit <= len(line):
                return line
            found = _LINE.match(line)
            if found is not None:
                return found[1] + b": " + found[2].strip().replace(b"\r", b" ") + b"\r\n"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)
