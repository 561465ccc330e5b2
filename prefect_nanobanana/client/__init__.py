"""The Nano Banana API over HTTP. Knows neither Prefect nor S3."""

from prefect_nanobanana.client._async_client import AsyncNanoBananaClient
from prefect_nanobanana.client._client import NanoBananaClient
from prefect_nanobanana.client._exchange import DEFAULT_BASE_URL
from prefect_nanobanana.client._hooks import GenerationHooks
from prefect_nanobanana.client._timings import DEFAULT_REQUEST_TIMEOUT_SECONDS

__all__ = [
    "DEFAULT_BASE_URL",
    "DEFAULT_REQUEST_TIMEOUT_SECONDS",
    "AsyncNanoBananaClient",
    "GenerationHooks",
    "NanoBananaClient",
]
