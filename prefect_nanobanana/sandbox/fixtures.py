"""Pytest fixtures: `pytest_plugins = ["prefect_nanobanana.sandbox.fixtures"]` in a conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefect_nanobanana.sandbox.server import Sandbox


@pytest.fixture
def nanobanana_sandbox() -> Iterator[Sandbox]:
    """A local Nano Banana server, new for each test: 100 credits, one slot, no waiting."""
    with Sandbox() as sandbox:
        yield sandbox
