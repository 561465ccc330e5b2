"""Prefect as commands use it: quiet, and patient with the start of its temporary server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.logging.configuration import setup_logging
from prefect.settings import (
    PREFECT_LOGGING_LEVEL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

START_SECONDS = 120
"""A temporary server takes about 20 s to start on a fresh machine, which is Prefect's own limit."""


@contextmanager
def quiet_prefect() -> Iterator[None]:
    """In the `with` block warnings alone are logged, unless the user's own settings say otherwise."""
    wanted: dict[Any, Any] = {
        PREFECT_LOGGING_LEVEL: "WARNING",
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: START_SECONDS,
    }
    unset = {setting: value for setting, value in wanted.items() if setting.name not in os.environ}
    with temporary_settings(unset):
        setup_logging()
        yield
    setup_logging()
