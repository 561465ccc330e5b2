"""What requests cost: the catalogue's prices, corrected by what answers say."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.models import Credits, ImageModel, ImageRequest, exact_credits

CAUTION = 10
"""Until an answer has confirmed a model's price, a ceiling holds if it is up to so many times higher."""


class Prices:
    """What requests cost; safe to use from many threads.

    Args:
        models: The catalogue, by name.
    """

    def __init__(self, models: Mapping[str, ImageModel]) -> None:
        self._models = models
        self._factors: dict[str, Decimal] = {}
        self._lock = threading.Lock()

    def of(self, request: ImageRequest) -> Credits | None:
        """What a request costs in credits, by all that is known; None if that is nothing."""
        listed = self.listed(request)
        with self._lock:
            factor = self._factors.get(request.model, Decimal(1))
        # An answer may have shown that it costs more; that it costs less once proves nothing.
        return listed if listed is None or factor <= 1 else exact_credits(listed * factor)

    def at_worst(self, request: ImageRequest) -> Credits | None:
        """The same, on the safe side while no answer has confirmed the model's price."""
        price = self.of(request)
        return price if price is None or self.confirmed(request.model) else price * CAUTION

    def confirmed(self, model: str) -> bool:
        """Whether an answer has told what a model really costs."""
        with self._lock:
            return model in self._factors

    def listed(self, request: ImageRequest) -> Credits | None:
        """What it costs by the catalogue, in credits; None if the model or its price is not listed."""
        model = self._models.get(request.model)
        return request.cost(model) if model else None

    def needs_plan(self, model: str) -> bool:
        """Whether a model may need another plan than the API's own, by the catalogue if there is one."""
        if not self._models:
            return True
        return model in self._models and self._models[model].requires_pro

    def learn(self, request: ImageRequest, told: Credits) -> bool:
        """Take note of what an answer says that a request has cost, in credits.

        Returns:
            Whether that is more than was known.
        """
        listed = self.listed(request)
        if not listed or listed < 0:
            return False
        factor = Decimal(told) / Decimal(listed)
        with self._lock:
            known = self._factors.get(request.model)
            self._factors[request.model] = max(factor, known or factor)
            return factor > max(1, known or 1)

    def told_by(self, records: Sequence[Record]) -> Prices:
        """The same prices, with what the answers of other records said."""
        prices = Prices(self._models)
        with self._lock:
            prices._factors = dict(self._factors)
        prices.learn_all(records)
        return prices

    def learn_all(self, records: Iterable[Record]) -> None:
        """Take note of what earlier answers said."""
        for record in records:
            told = record.generation.credits_used if record.generation else None
            if told is not None and record.generation and record.generation.status == "completed":
                self.learn(record.request, told)
