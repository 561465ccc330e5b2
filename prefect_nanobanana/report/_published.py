"""Publishing that fails alone: the pictures are paid for and stored, whatever becomes of a page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from prefect_nanobanana._common.text import shortened, without_signatures

ACCOUNT = "artifact nanobanana-credits"
Logger = logging.Logger | logging.LoggerAdapter[Any]


def published(what: str, publish: Callable[[], object], logger: Logger) -> bool:
    """Publish something, and say whether that worked."""
    try:
        publish()
    except Exception as error:  # whatever it is, the pictures are paid for and stored
        why = shortened(without_signatures(f"{type(error).__name__}: {error}"))
        logger.error("%s could not be published: %s", what, why)
        return False
    return True
