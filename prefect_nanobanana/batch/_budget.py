"""The ceiling on what a run may spend."""

from __future__ import annotations

import threading

from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.models import Credits, ImageRequest


class Budget:
    """Keeps a run at or below its ceiling, however many requests are under way at once.

    Credits are set aside when a prompt's turn comes, and once more, at the price that is known then,
    when its request leaves: answers may have told another price meanwhile. While no answer has
    confirmed a model's price, several times of it are set aside, unless the request is the only one
    under way. A request whose cost no answer told counts likewise, also when it has ended.

    Args:
        ceiling: The most that the run may spend, in credits; None for no bound.
        prices: What requests cost.
        spent: What is spent already, in credits.
    """

    def __init__(self, ceiling: Credits | None, prices: Prices, spent: Credits = 0) -> None:
        self._ceiling = ceiling
        self._prices = prices
        self._told = spent
        self._spent: dict[int, Credits] = {}
        self._untold: dict[int, ImageRequest] = {}
        self._waiting: dict[int, ImageRequest] = {}
        self._sent: dict[int, ImageRequest] = {}
        self._changed = threading.Condition()

    def reserve(self, position: int, request: ImageRequest) -> bool:
        """Set credits aside for a prompt. Waits while what is under way might turn out to be free.

        Args:
            position: The prompt's place in the list.
            request: What is to be asked for.

        Returns:
            False if it does not fit below the ceiling.
        """
        return self._fits(position, request, self._waiting, (self._waiting, self._sent))

    def confirm(self, position: int, request: ImageRequest) -> bool:
        """Set credits aside for a request that is about to leave, at the price that is known now.

        Waits, too, but only for requests that have left: they end by themselves.

        Returns:
            False if it does not fit below the ceiling any more.
        """
        with self._changed:
            self._waiting.pop(position, None)
            self._sent.pop(position, None)
        return self._fits(position, request, self._sent, (self._sent,))

    def settle(self, position: int, spent: Credits, untold: ImageRequest | None = None) -> None:
        """Say what a prompt has cost the run so far.

        Args:
            position: The prompt's place in the list.
            spent: What answers told, in credits, all its requests of this run together.
            untold: A request that has cost more, or may have, as no answer told its cost.
        """
        with self._changed:
            self._waiting.pop(position, None)
            self._sent.pop(position, None)
            self._untold.pop(position, None)
            self._told += spent - self._spent.get(position, 0)
            self._spent[position] = spent
            if untold is not None:
                self._untold[position] = untold
            self._changed.notify_all()

    def _fits(
        self,
        position: int,
        request: ImageRequest,
        own: dict[int, ImageRequest],
        counted: tuple[dict[int, ImageRequest], ...],
    ) -> bool:
        if self._ceiling is None:
            return True
        if self._prices.of(request) is None:
            return False  # whatever it costs may not fit
        with self._changed:
            # Requests are set aside, not amounts: what they may cost is corrected while they are.
            while self._counted() + (self._prices.of(request) or 0) <= self._ceiling:
                under_way = [*(other for each in counted for other in each.values())]
                at_worst = (*self._untold.values(), *under_way, request)
                wanted = sum(self._prices.at_worst(r) or 0 for r in at_worst)
                if not under_way or self._told + wanted <= self._ceiling:
                    own[position] = request
                    return True
                self._changed.wait()
            return False

    def _counted(self) -> Credits:
        """What the run has cost so far, by the prices that are known now."""
        return self._told + sum(self._prices.of(request) or 0 for request in self._untold.values())

    def suspend(self, position: int) -> None:
        """A request was not charged, and waits until it may be sent again."""
        with self._changed:
            request = self._sent.pop(position, None)
            if request is not None:
                self._waiting[position] = request
            self._changed.notify_all()
