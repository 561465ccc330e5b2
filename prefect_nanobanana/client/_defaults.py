"""What the credentials block shows of the client, which is cheap to import."""

from __future__ import annotations

DEFAULT_BASE_URL = "https://www.nananobanana.com/api/v1"
"""Where the API is (seed document)."""
DEFAULT_REQUEST_TIMEOUT_SECONDS = 180.0
"""The vendor asks for at least 120 s; a generation takes 10 to 60 s (seed document)."""
