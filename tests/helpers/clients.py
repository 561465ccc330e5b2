"""The two clients, asked in the same words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from prefect_nanobanana.client import AsyncNanoBananaClient, NanoBananaClient

Call = Callable[..., Any]
KEY = "nb_very-secret-key"


def call_sync(url: str, method: str, *args: Any, options: Any = None, **kwargs: Any) -> Any:
    """Call a method of a new client."""
    with NanoBananaClient(KEY, url, **(options or {})) as client:
        return getattr(client, method)(*args, **kwargs)


def call_async(url: str, method: str, *args: Any, options: Any = None, **kwargs: Any) -> Any:
    """Call a method of a new async client."""

    async def run() -> Any:
        async with AsyncNanoBananaClient(KEY, url, **(options or {})) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a method of a new client, of either kind."""
    return request.param  # type: ignore[no-any-return]
