"""How far a run is: for terminals, logs, and whoever wants to watch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from prefect_nanobanana.models import Credits, OutcomeStatus


@dataclass(frozen=True)
class Progress:
    """A snapshot of a run.

    Attributes:
        prompts: How many there are in all.
        counts: How many have come to which end.
        images: Images in S3.
        credits_used: Paid by this run so far, in credits.
        credits_projected: What the run will have paid at its end, by the listed prices, in credits; None
            if the price of a model is not listed.
        seconds_left: An estimate from what past generations took; None before the first.
        prompt: The prompt that has just come to an end, or got further.
        status: Its end; None if it has not ended.
        percent: How far it is, if the API tells (stream mode).
    """

    prompts: int
    counts: dict[OutcomeStatus, int]
    images: int
    credits_used: Credits
    seconds_left: float | None
    prompt: str | None = None
    status: OutcomeStatus | None = None
    percent: int | None = None
    credits_projected: Credits | None = None

    @property
    def done(self) -> int:
        """Prompts that have come to any end."""
        return sum(self.counts.values())


Watcher = Callable[[Progress], None]
_WATCHER: ContextVar[Watcher | None] = ContextVar("nanobanana_watcher", default=None)


@contextmanager
def watch_progress(watcher: Watcher) -> Iterator[None]:
    """Have `watcher` called after each prompt of the runs started inside the `with` block.

    It is called from the run's threads, one call at a time. What it raises is not passed on: a
    broken display must not cost anybody a picture.

    Example:
        ```python
        with watch_progress(lambda p: print(p.done, "of", p.prompts, p.credits_used, "credits")):
            generate_images(prompts=["a cat"], generator=generator, bucket=bucket)
        ```
    """
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


class Tracker:
    """Counts a run's prompts as they end, and tells the watcher.

    Args:
        prompts: How many there are in all.
        expected: What those that are to be asked for cost by the listed prices, in credits; None if one
            is not listed.
        also: Another watcher.
    """

    def __init__(
        self, prompts: int, *, expected: Credits | None = None, also: Watcher | None = None
    ) -> None:
        self._prompts = prompts
        self._expected = expected
        self._counts: dict[OutcomeStatus, int] = {}
        self._images = 0
        self._credits: Credits = 0
        self._asked = 0
        self._started = time.monotonic()
        self._watchers = [watcher for watcher in (_WATCHER.get(), also) if watcher is not None]
        self._lock = threading.Lock()
        self.announce()

    def ended(
        self,
        prompt: str,
        status: OutcomeStatus,
        *,
        images: int,
        credits: Credits,
        asked: bool,
        expected: Credits = 0,
    ) -> None:
        """Count a prompt that has come to an end.

        Args:
            prompt: Its text.
            status: Its end.
            images: Its images in S3.
            credits: What this run paid for it.
            asked: Whether this run asked the API for it.
            expected: What it was expected to cost.
        """
        with self._lock:
            if self._expected is not None:
                self._expected -= expected
            self._counts[status] = self._counts.get(status, 0) + 1
            self._images += images
            self._credits += credits
            self._asked += asked
        self.announce(prompt, status)

    def moved(self, prompt: str, percent: int) -> None:
        """Tell how far a prompt is that has not ended."""
        self.announce(prompt, percent=percent)

    def announce(
        self,
        prompt: str | None = None,
        status: OutcomeStatus | None = None,
        percent: int | None = None,
    ) -> None:
        """Tell the watchers how far the run is."""
        if not self._watchers:
            return
        with self._lock:
            left = self._prompts - sum(self._counts.values())
            pace = (time.monotonic() - self._started) / self._asked if self._asked else None
            snapshot = Progress(
                prompts=self._prompts,
                counts=dict(self._counts),
                images=self._images,
                credits_used=self._credits,
                seconds_left=None if pace is None else pace * left,
                prompt=prompt,
                status=status,
                percent=percent,
                credits_projected=(
                    None if self._expected is None else self._credits + max(0, self._expected)
                ),
            )
            for watcher in tuple(self._watchers):
                try:
                    watcher(snapshot)
                except Exception:
                    self._watchers.remove(watcher)  # it would only fail again
