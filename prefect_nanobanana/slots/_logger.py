"""Where things are said that no single prompt is to blame for."""

from __future__ import annotations

import logging
from typing import Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger


def logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """The log of the run, or outside of runs that of this package."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("nanobanana")
