"""Who is told of the steps that concern money."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana._common.references import is_private
from prefect_nanobanana.errors import InvalidInput, NotCharged
from prefect_nanobanana.models import Generation, Submission


class GenerationHooks:
    """Is told of every step that concerns money, as it happens; the ledger is one.

    Attributes:
        offers_private_references: Whether `reference_urls` knows where the API can fetch references from
            that are not on the web.
    """

    offers_private_references = False

    def check_references(self, urls: Sequence[str]) -> None:
        """Look whether the API can be offered references, before a request waits for a slot.

        Raises:
            InvalidInput: If one is not on the web; nothing is sent.
        """
        private = next(filter(is_private, urls), None)
        if private is not None and not self.offers_private_references:
            raise InvalidInput(
                f"reference_image_urls: {quoted(private)} is not on the web: only the flows of this "
                "package, which have a bucket, can offer it to the API"
            )

    def reference_urls(self, urls: Sequence[str]) -> Sequence[str]:
        """Say where the API can fetch references from; it is called as a request is about to leave."""
        self.check_references(urls)
        return urls

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
