"""What a run may spend: its own ceiling, and what it is granted of a budget that it shares."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.budgets import PROMPTS_AHEAD, Grants
from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.models import BUDGET_SPENT, CEILING_REACHED, Credits, ImageRequest

CLOSE_SECONDS = 5.0
"""So long a request to the shared budget's books is waited for at the end."""


class Budget:
    """Keeps a run at or below its bounds, however many requests are under way at once.

    Credits are set aside when a prompt's turn comes, and once more, at the price that is known then,
    when its request leaves: answers may have told another price meanwhile. While no answer has
    confirmed a model's price, several times of it are set aside below the ceiling, unless the request
    is the only one under way. A request whose cost no answer told counts likewise, also when it has
    ended.

    Args:
        ceiling: The most that the run may spend, in credits; None for no bound.
        prices: What requests cost.
        spent: What is spent already, in credits.
        grants: What it may spend of a shared budget; None without one.
        prompts: How many prompts are to be asked for: credits are set aside for some at a time.
    """

    def __init__(
        self,
        ceiling: Credits | None,
        prices: Prices,
        spent: Credits = 0,
        grants: Grants | None = None,
        prompts: int = 0,
    ) -> None:
        self._ceiling = ceiling
        self._prices = prices
        self._told = spent
        self._grants = grants
        self._prompts = prompts
        self._spent: dict[int, Credits] = {}
        self._untold: dict[int, ImageRequest] = {}
        self._waiting: dict[int, ImageRequest] = {}
        self._sent: dict[int, ImageRequest] = {}
        self._extending = False
        self._at_turn: set[int] = set()
        self._carried: set[int] = set()
        self._error: StorageError | None = None
        self._changes = 0
        self._changed = threading.Condition()

    def reserve(self, position: int, request: ImageRequest) -> str | None:
        """Set credits aside for a prompt. Waits while what is under way might turn out to be free.

        Args:
            position: The prompt's place in the list.
            request: What is to be asked for.

        Returns:
            Why it may not be asked for; None if it may.

        Raises:
            StorageError: If the shared budget's books cannot be read or written.
        """
        return self._fit(position, request, self._waiting, (self._waiting, self._sent))

    def confirm(self, position: int, request: ImageRequest) -> str | None:
        """Set credits aside for a request that is about to leave, at the price that is known now.

        Waits, too, but only for requests that have left: they end by themselves.

        Returns:
            Why it may not leave; None if it may.

        Raises:
            StorageError: As above.
        """
        with self._changed:
            self._waiting.pop(position, None)
            self._sent.pop(position, None)
        return self._fit(position, request, self._sent, (self._sent,))

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
            more = spent - self._spent.get(position, 0)
            self._told += more
            if position in self._carried and self._grants is not None:
                self._grants.count_before(more)
            self._forget(position)
            self._spent[position] = spent
            if untold is not None:
                self._untold[position] = untold
            self._changes += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Give back what was set aside of the shared budget, and not spent.

        Raises:
            StorageError: If that cannot be written.
        """
        if self._grants is not None:
            with self._changed:
                # A thread that nobody waits for any more sets nothing aside.
                self._error = self._error or StorageError("the run has ended")
                self._changed.wait_for(lambda: not self._extending, CLOSE_SECONDS)
                spent = self._with(self._sent.values())
            self._grants.close(spent)

    def _forget(self, position: int) -> None:
        """What is under way no more was not under way when a period ended."""
        self._carried.discard(position)
        self._at_turn.discard(position)

    def _fit(
        self,
        position: int,
        request: ImageRequest,
        own: dict[int, ImageRequest],
        counted: tuple[dict[int, ImageRequest], ...],
    ) -> str | None:
        grants = self._grants
        if self._ceiling is None and grants is None:
            return None
        if self._prices.of(request) is None:  # whatever it costs may not fit
            return CEILING_REACHED if grants is None else f"{BUDGET_SPENT}: its price is unknown"
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error  # whoever waits need not find out anew
                least = self._with([request])
                if self._ceiling is not None and least > self._ceiling:
                    return CEILING_REACHED
                # Requests are set aside, not amounts: what they may cost is corrected while they are.
                under_way = [*(other for each in counted for other in each.values())]
                seen = self._changes
                if self._ceiling is None or not under_way or self._at_worst(request, under_way):
                    total = self._with([*under_way, request])
                    if grants is None or grants.covers(total):
                        own[position] = request
                        self._changes += 1
                        return None
                    if not self._extending:
                        if self._extend(grants, total, request):
                            continue
                        if not under_way or not grants.could_cover(least):
                            return f"{BUDGET_SPENT}: {grants.left}"
                if seen == self._changes:
                    self._changed.wait()

    def _at_worst(self, request: ImageRequest, under_way: Iterable[ImageRequest]) -> bool:
        """Whether all fits below the ceiling if prices are higher than is known."""
        assert self._ceiling is not None
        at_worst = (*self._untold.values(), *under_way, request)
        return self._told + sum(self._prices.at_worst(r) or 0 for r in at_worst) <= self._ceiling

    def _extend(self, grants: Grants, total: Credits, request: ImageRequest) -> bool:
        """Have more set aside in the shared budget, while others go on."""
        prompts = max(0, min(PROMPTS_AHEAD, self._prompts - len(self._spent)))
        ahead = (self._prices.of(request) or 0) * prompts
        spent, told = self._with(self._sent.values()), self._told
        self._at_turn, periods = set(self._sent), grants.periods
        self._extending = True
        self._changed.release()
        try:
            return grants.extend(total, ahead, spent, told)
        except StorageError as error:
            self._error = error
            raise
        finally:
            self._changed.acquire()
            self._extending = False
            if grants.periods > periods:
                self._carried = self._at_turn
            self._changed.notify_all()

    def _with(self, requests: Iterable[ImageRequest]) -> Credits:
        """What the run has cost so far and these requests, by the prices that are known now."""
        asked = (*self._untold.values(), *requests)
        return self._told + sum(self._prices.of(request) or 0 for request in asked)

    def suspend(self, position: int) -> None:
        """A request was not charged, and waits until it may be sent again."""
        with self._changed:
            self._forget(position)  # it is sent again, and paid, in the period that is then
            request = self._sent.pop(position, None)
            if request is not None:
                self._waiting[position] = request
            self._changes += 1
            self._changed.notify_all()
