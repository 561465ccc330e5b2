"""The ceiling on what a run may spend."""

from __future__ import annotations

import threading

from prefect_nanobanana.models import Credits


class Budget:
    """Keeps a run at or below its ceiling, however many requests are under way at once.

    Args:
        ceiling: The most that the run may spend, in credits; None for no bound.
    """

    def __init__(self, ceiling: Credits | None) -> None:
        self._ceiling = ceiling
        self._spent: Credits = 0
        self._reserved: Credits = 0
        self._settled = threading.Condition()

    def reserve(self, cost: Credits) -> bool:
        """Set credits aside for a request.

        Waits while requests under way might yet turn out not to be charged.

        Args:
            cost: What it will cost, in credits.

        Returns:
            False if it does not fit below the ceiling.
        """
        with self._settled:
            if self._ceiling is None:
                return True
            while self._spent + cost <= self._ceiling:
                if self._spent + self._reserved + cost <= self._ceiling:
                    self._reserved += cost
                    return True
                self._settled.wait()
            return False

    def settle(self, cost: Credits, spent: Credits) -> None:
        """Turn what was set aside into what was spent: the worst where that is not known.

        Args:
            cost: What was set aside, in credits.
            spent: What was charged, or may have been.
        """
        with self._settled:
            if self._ceiling is not None:
                self._reserved -= cost
                self._spent += spent
                self._settled.notify_all()
