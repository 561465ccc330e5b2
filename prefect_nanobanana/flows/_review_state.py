"""The questions of a review: which were asked, about what, and which are answered."""

# No `from __future__ import annotations` here, as in every module of the flows.

from datetime import datetime

from prefect.client.schemas.objects import FlowRun
from pydantic import ValidationError

from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.flows._asked import was_asked
from prefect_nanobanana.flows._review_form import Asked


class Questions:
    """What a run asks people, one question after the other. Prefect knows which it has asked.

    Args:
        ledger: Of the batch.
        run: The flow run.
    """

    def __init__(self, ledger: Ledger, run: FlowRun | None) -> None:
        self._ledger = ledger
        self._run = run

    def next(self) -> tuple[int, Asked | None, datetime | None]:
        """Which question is next, what it is about if it was asked, and when the last was answered."""
        number, last = 1, None
        while was_asked(self._run, question_key(number)):
            asked = self._noted(number)
            if asked is None or asked.taken_over is None:
                return number, asked or Asked(images=[]), last
            number, last = number + 1, asked.taken_over
        return number, None, last

    def place(self, number: int, what: str = "") -> str:
        """The key of what the review page writes in answer to a question."""
        run_id = self._run.id if self._run is not None else ""
        return self._ledger.key("picks", f"{run_id}-{number}{what}.json")

    def note(self, number: int, asked: Asked) -> None:
        """Keep what a question is about.

        Raises:
            StorageError: If it cannot be written.
        """
        content = asked.model_dump_json().encode()
        self._ledger.store.put(self.place(number, "-asked"), content, "application/json")

    def _noted(self, number: int) -> Asked | None:
        found = self._ledger.store.find(self.place(number, "-asked"))
        try:
            return Asked.model_validate_json(found[0]) if found is not None else None
        except ValidationError:
            return None  # whoever may write the bucket has changed it: the page still counts


def question_key(number: int) -> str:
    """Prefect asks once under a key."""
    return f"nanobanana-review-{number}"
