"""The Nano Banana API over HTTP. Knows neither Prefect nor S3."""

from prefect_nanobanana.client._client import (
    DEFAULT_BASE_URL,
    DEFAULT_REQUEST_TIMEOUT_SECONDS,
    AsyncNanoBananaClient,
    GenerationHooks,
    NanoBananaClient,
)

__all__ = [
    "DEFAULT_BASE_URL",
    "DEFAULT_REQUEST_TIMEOUT_SECONDS",
    "AsyncNanoBananaClient",
    "GenerationHooks",
    "NanoBananaClient",
]
