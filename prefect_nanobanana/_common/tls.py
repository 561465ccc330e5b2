"""The certificates that servers are known by, loaded once."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import httpx

from prefect_nanobanana.errors import InvalidInput

_contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}
_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""Where companies that look into TLS have their own authority set; the first counts."""


def tls() -> ssl.SSLContext:
    """What httpx makes for each client anew, which costs 30 ms of CPU.

    Raises:
        InvalidInput: If the environment names certificates that cannot be read.
    """
    variables = tuple(map(os.environ.get, (*_FILES, "SSL_CERT_DIR")))
    if variables not in _contexts:
        _contexts[variables] = _context()
    return _contexts[variables]


def _context() -> ssl.SSLContext:
    name = next((name for name in (*_FILES, "SSL_CERT_DIR") if os.environ.get(name)), None)
    if name is None:
        return httpx.create_ssl_context()
    path = os.environ[name]
    try:
        if name == "SSL_CERT_DIR" or Path(path).is_dir():
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidInput(
            f"{name}: no certificates can be read from {path[:200]} ({error.strerror or error}): set it "
            "to a PEM file that holds the certificate authority, or unset it"
        ) from None
