"""The Nano Banana API over HTTP. Knows neither Prefect nor S3."""

from typing import TYPE_CHECKING, Any

from prefect_nanobanana.client._defaults import DEFAULT_BASE_URL, DEFAULT_REQUEST_TIMEOUT_SECONDS
from prefect_nanobanana.client._hooks import GenerationHooks

if TYPE_CHECKING:
    from prefect_nanobanana.client._async_client import AsyncNanoBananaClient
    from prefect_nanobanana.client._client import NanoBananaClient

__all__ = [
    "DEFAULT_BASE_URL",
    "DEFAULT_REQUEST_TIMEOUT_SECONDS",
    "AsyncNanoBananaClient",
    "GenerationHooks",
    "NanoBananaClient",
]


def __getattr__(name: str) -> Any:
    # Not before they are used: every process that loads any Prefect block imports this package.
    if name == "NanoBananaClient":
        from prefect_nanobanana.client._client import NanoBananaClient

        return NanoBananaClient
    if name == "AsyncNanoBananaClient":
        from prefect_nanobanana.client._async_client import AsyncNanoBananaClient

        return AsyncNanoBananaClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
