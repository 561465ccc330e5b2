"""Who is told of the steps that concern money."""

from __future__ import annotations

from prefect_nanobanana.errors import NotCharged
from prefect_nanobanana.models import Generation, Submission


class GenerationHooks:
    """Is told of every step that concerns money, as it happens; the ledger is one."""

    def sending(self) -> None:
        """A request that may be charged is about to leave; raising keeps it from leaving."""

    def not_charged(self, error: NotCharged) -> None:
        """The request that left last was not charged; its slot is still held."""

    def submitted(self, submission: Submission) -> None:
        """The API has named the generation; its end can be asked for from now on."""

    def progress(self, percent: int, message: str) -> None:
        """The generation has come so far; for people."""

    def answered(self, generation: Generation) -> None:
        """The generation has ended. What was sent in sync mode still holds its slot."""
