"""Helpers of the tests of lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefect_nanobanana import InvalidInput
from prefect_nanobanana.batch._prompts import Listed, gather_prompts
from prefect_nanobanana.images import Fetcher

NO_WEB = Fetcher()
"""Lets nothing through that a test could serve."""


def no_s3(uri: str, max_bytes: int) -> bytes:
    raise AssertionError(uri)


def gather(folder: Path, name: str, content: str | bytes, *given: Any) -> list[Listed]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return gather_prompts(given, str(path), no_s3, NO_WEB)


def refused(folder: Path, name: str, content: str | bytes) -> str:
    with pytest.raises(InvalidInput) as caught:
        gather(folder, name, content)
    text = str(caught.value)
    assert all(line.isprintable() for line in text.splitlines()), "it could speak to a terminal"
    assert len(text) < 8000
    return text
