"""Decides what a run does with each prompt of its list."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from prefect_nanobanana.batch._checks import problems_of, warnings_of
from prefect_nanobanana.batch._fallbacks import FallbackModels, from_last, has_refused, untried
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._planned import Fallback, Planned, action_of
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.batch._prompts import Listed
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._references import References
from prefect_nanobanana.models import AskAgain, ImageModel, ImageRequest

_NOT_IN_PRICE = "it is asked again, and paid again, if its end cannot be had: not in the price"


class Planner:
    """Decides what a run does with each prompt, and gathers what is wrong or may not work.

    Args:
        ledger: What earlier runs have asked, paid and stored.
        catalogue: The API's models by name; None if they could not be read.
        prices: What requests cost.
        ask_again: What is asked, and may be paid, again.
        bounded: Whether what is spent has a bound.
        fallbacks: The models that are asked if others refuse.
        answer_within_seconds: A request without an answer that is younger may still get one.
        references: What private references hold.
        offered_seconds: How long the API may fetch them.

    Attributes:
        problems: What cannot be asked for, with its place.
        warnings: What may not work, with the places that it is true of.
    """

    def __init__(
        self,
        ledger: Ledger,
        catalogue: Mapping[str, ImageModel] | None,
        prices: Prices,
        ask_again: Collection[AskAgain],
        *,
        bounded: bool,
        fallbacks: FallbackModels,
        answer_within_seconds: float,
        references: References,
        offered_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._prices = prices
        self._ask_again = ask_again
        self._bounded = bounded
        self._fallbacks = fallbacks
        self._answer_within = answer_within_seconds
        self._references = references
        self._offered_seconds = offered_seconds
        self.problems: list[str] = []
        self.warnings: dict[str, list[str]] = {}

    def plan(
        self, position: int, item: Listed, request: ImageRequest, key: str, found: Record | None
    ) -> Planned:
        """Decide what to do with a prompt.

        Args:
            position: Its place in the list, from 1.
            item: The prompt.
            request: The same with the generator's settings filled in.
            key: What its record is found by.
            found: Its record, if there is one.
        """
        ledger = self._ledger
        record = found or Record(key=key, prompt=item.prompt, request=request)
        record = record.listed(position, item.prompt, request, dict(item.variables))
        action = action_of(record, ledger.asked_by, self._ask_again, self._answer_within)
        chain, told = self._chain(record, request, again=action == "ask" and not record.safe_to_send)
        if record.state == "warning" and self._fallbacks and chain:
            action = "ask"
        elif action == "ask" and not chain:
            action, chain = ("reuse", []) if has_refused(record, request) else ("ask", [request])
        if action != "reuse" and found is not None:  # what will be written again is read itself
            whole = ledger.whole(record)
            record = whole.listed(position, item.prompt, request, dict(item.variables))
        first = request
        if action == "ask":
            first, *chain = chain
            self._check(item.place, first, told)
        elif action == "await_end":
            first = from_last(record, [request])[0]  # if its end cannot be had, and it is asked again
        unreadable = bool(self._references.problems(request.reference_image_urls))
        if unreadable:  # of what is to be asked for that was an error
            chain = []
        if action != "reuse":
            for other in chain:
                self._warn_of(other, item.place)
        resend = "unknown" in self._ask_again and not record.ever_asked_in(ledger.asked_by)
        price = self._prices.of(first)
        again = action == "await_end" and resend and (not self._bounded or bool(price))
        again = again and not unreadable
        if again:
            self._warn(_NOT_IN_PRICE, item.place)
        return Planned(
            position=position,
            record=record,
            prompt=item.prompt,
            request=first,
            price=price,
            action=action,
            ledger=ledger,
            again=again,
            place=item.place,
            fallbacks=tuple(Fallback(other, self._prices.of(other)) for other in chain),
            first=request,
            offered_seconds=self._offered_seconds,
            variables=item.variables,
            reference_tags=tuple(map(self._references.tag, request.reference_image_urls)),
        )

    def _chain(
        self, record: Record, request: ImageRequest, *, again: bool
    ) -> tuple[list[ImageRequest], str | None]:
        """What is asked for, one after the other; what has refused already is asked on request alone."""
        chain, told = self._fallbacks.chain(request)
        asked_by, warnings = self._ledger.asked_by, "warnings" in self._ask_again
        if again:
            return (chain if record.state == "warning" else from_last(record, chain)), told
        if warnings and record.ever_asked_in(asked_by):
            return untried(record, chain, asked_by), told  # this call has begun anew with the first
        return untried(record, chain), told

    def _check(self, place: str, request: ImageRequest, told: str | None) -> None:
        # What is paid already needs its model no more.
        problems = problems_of(request, self._catalogue)
        problems += self._references.problems(request.reference_image_urls)
        self.problems += [f"{place}: {text}" for text in problems]
        if told is not None:
            self._warn(told, place)
        self._warn_of(request, place)

    def _warn_of(self, request: ImageRequest, place: str) -> None:
        for text in warnings_of(request, self._catalogue):
            self._warn(text, place)

    def _warn(self, text: str, place: str) -> None:
        self.warnings.setdefault(text, []).append(place)
