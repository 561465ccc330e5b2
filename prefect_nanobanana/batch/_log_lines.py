"""What a run's log says of its prompts, which is bounded: Prefect keeps each line in its database."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Any

from prefect_nanobanana._common.text import number
from prefect_nanobanana.models import OutcomeStatus

OWN_LINES = 1_000
"""Prompts that get a line of their own at most; with and without images, each; likewise for progress."""
SUMMARY_EVERY = 100
"""Beyond them, one line for so many prompts."""


class LogLines:
    """Says of each prompt how it ended, and of many how many have ended; safe to use from many threads.

    Args:
        logger: Gets the lines.
        prompts: How many prompts the run has.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any], prompts: int) -> None:
        self._logger = logger
        self._prompts = prompts
        self._ended: Counter[OutcomeStatus] = Counter()
        self._moves = 0
        self._lock = threading.Lock()

    def moved(self, line: str) -> None:
        """Say how far a generation is, as long as prompts have lines of their own."""
        with self._lock:
            self._moves += 1
            told = self._moves <= OWN_LINES
        if told:
            self._logger.info("%s", line)

    def ended(self, status: OutcomeStatus, line: str) -> None:
        """Take note of the end of a prompt, and say it.

        Args:
            status: How it ended.
            line: What is said of it, if it gets a line of its own.
        """
        stored = status == "stored"
        with self._lock:
            self._ended[status] += 1
            done = self._ended.total()
            alike = self._ended["stored"] if stored else done - self._ended["stored"]
            counts = ", ".join(f"{number(n)} {name}" for name, n in self._ended.items())
        if alike <= OWN_LINES:
            self._logger.log(logging.INFO if stored else logging.WARNING, "%s", line)
            if alike == OWN_LINES and done < self._prompts:
                self._logger.info(
                    "Of further prompts that %s only the number is said",
                    "have images" if stored else "have none",
                )
        elif done % SUMMARY_EVERY == 0 or done == self._prompts:
            self._logger.info("%s of %s: %s", number(done), number(self._prompts), counts)
