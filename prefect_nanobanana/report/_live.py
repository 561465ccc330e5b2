"""The run's progress artifact, which moves while the run goes on."""

from __future__ import annotations

import contextvars
import logging
import threading
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from prefect_nanobanana._common.text import counted, in_credits, number
from prefect_nanobanana.progress import Progress
from prefect_nanobanana.report._summary import counts_line

UPDATE_SECONDS = 2.0
"""Prefect's server has better things to do than to hear of each prompt."""
LAST_WORD_SECONDS = 10.0
"""A server that does not answer holds up the end of a run for no longer."""
STOPPED_SECONDS = 2.0
"""Likewise for a run that a signal has stopped, which is killed soon."""


class LiveArtifact:
    """Shows a run's progress in Prefect's UI. Use it in a `with` statement, inside of the flow run.

    It has a thread of its own: what Prefect's server takes to answer delays nothing. What cannot be
    shown is said once, and fails nothing.

    Args:
        key: The artifact's key.
        logger: Where to say what cannot be shown.
        update_seconds: How long to wait between two updates.
    """

    def __init__(
        self,
        key: str,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        update_seconds: float = UPDATE_SECONDS,
    ) -> None:
        self._key = key
        self._update_seconds = update_seconds
        self._logger = logger
        self._id: UUID | None = None
        self._latest: Progress | None = None
        self._complained = False
        self._last_words = ""
        self._news = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(
            # Prefect finds its server in the context.
            target=contextvars.copy_context().run,
            args=(self._show,),
            name="progress",
            daemon=True,
        )

    def __call__(self, progress: Progress) -> None:
        """Take note of how far the run is."""
        self._latest = progress
        self._news.set()

    def __enter__(self) -> LiveArtifact:
        try:
            self._id = cast(UUID, create_progress_artifact(0.0, self._key, "starting"))
            self._thread.start()
        except Exception as error:
            self._complain(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self._last_words = " ".join(getattr(error, "__notes__", ()))
        self._closed.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(LAST_WORD_SECONDS if error is None else STOPPED_SECONDS)

    def _show(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            closed = self._closed.is_set()  # asked first: what comes after it is the last
            if self._latest is not None and self._id is not None:
                try:
                    line = self._last_words or progress_line(self._latest)
                    update_progress_artifact(self._id, _percent(self._latest), line)
                except Exception as error:
                    self._complain(error)  # the next one may get through
            if closed:
                return
            self._closed.wait(self._update_seconds)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._logger.warning("The run's progress cannot be shown: %s", error)
        self._complained = True


def progress_line(progress: Progress) -> str:
    """How far a run is, in one line.

    As `12 of 28 prompts: 10 stored, 2 warnings; 14 credits spent, 30 expected in all; about 2 min left`.
    """
    parts = [f"{progress.done} of {counted(progress.prompts, 'prompt')}"]
    if progress.counts:
        parts[0] += f": {counts_line(progress.counts)}"
    spent = f"{in_credits(progress.credits_used)} spent"
    if progress.credits_projected is not None and progress.done < progress.prompts:
        spent += f", {number(progress.credits_projected)} expected in all"
    parts.append(spent)
    if progress.done < progress.prompts and progress.seconds_left is not None:
        parts.append(f"about {_duration(progress.seconds_left)} left")
    return "; ".join(parts)


def _percent(progress: Progress) -> float:
    return 100.0 * progress.done / progress.prompts if progress.prompts else 100.0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
