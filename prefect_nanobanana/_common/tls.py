"""The certificates that servers are known by, loaded once."""

from __future__ import annotations

import os
import ssl

import httpx

_contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}


def tls() -> ssl.SSLContext:
    """What httpx makes for each client anew, which costs 30 ms of CPU."""
    variables = tuple(map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR")))
    if variables not in _contexts:
        _contexts[variables] = httpx.create_ssl_context()  # which reads them, too
    return _contexts[variables]
