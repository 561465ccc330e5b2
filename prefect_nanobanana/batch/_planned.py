"""What a run is to do with one prompt."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from prefect_nanobanana._common.references import is_private, split_hash
from prefect_nanobanana.batch._charges import charges_before, charges_of
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._spending import last_of
from prefect_nanobanana.models import (
    AskAgain,
    Charge,
    Credits,
    ImagePrompt,
    ImageRequest,
)

Action = Literal["ask", "await_end", "await_other", "copy", "reuse"]


class Fallback(NamedTuple):
    """What is asked for if the model before it refuses, and its price in credits."""

    request: ImageRequest
    price: Credits | None


@dataclass(frozen=True)
class Planned:
    """What a run is to do with one prompt.

    Attributes:
        position: Its place in the list, from 1.
        record: What the ledger knows of it.
        prompt: What is asked for, if it is.
        request: The same with the generator's settings filled in.
        price: What asking costs in credits; None if the API does not say.
        action: `ask` the API; `await_end` of what an earlier run has begun; `await_other`, a run that is
            asking for it at this moment; `copy` images that are paid; or `reuse` what is known.
        ledger: Where its record is.
        again: Whether it is asked for again if its end cannot be had.
        of_this_call: Whether it was asked for since this call began, by a part of it.
        place: Where it stands, as `cats.csv, line 3`.
        fallbacks: What is asked for next, in this order, each if the one before it is refused.
        first: What the list asks for, if `request` is a fallback.
        own_charges: What requests of this call have cost, since it began, before the last one.
        offered_seconds: How long the API may fetch private references after a request has left.
        reference_tags: The versions of those in S3 that were read; empty where that is not known.
        variables: What the variables of its template stand for.
    """

    position: int
    record: Record
    prompt: ImagePrompt
    request: ImageRequest
    price: Credits | None
    action: Action
    ledger: Ledger
    again: bool = False
    of_this_call: bool = False
    place: str = ""
    fallbacks: tuple[Fallback, ...] = ()
    first: ImageRequest | None = None
    own_charges: tuple[Charge, ...] = ()
    offered_seconds: float = 0.0
    reference_tags: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def listed(self) -> ImageRequest:
        """What the list asks for, whichever model is asked."""
        return self.first or self.request

    def reference_urls(self) -> list[str]:
        """Where the API can fetch the references from, for a request that leaves now.

        Raises:
            InvalidInput: If one is gone, or has changed since it was read.
            StorageError: If the store cannot be used.
        """
        uris, seconds = self.ledger.store.uris, self.offered_seconds
        urls = self.request.reference_image_urls
        tags = self.reference_tags or ("",) * len(urls)
        return [
            uris.presign(split_hash(url)[0], seconds, tag) if is_private(url) else url
            for url, tag in zip(urls, tags, strict=True)
        ]

    @property
    def asked_prompt(self) -> ImagePrompt:
        """The prompt with the model that is asked, if that is a fallback."""
        if self.request == self.listed:
            return self.prompt
        return self.prompt.model_copy(update={"model": self.request.model})

    @property
    def may_be_asked(self) -> tuple[Fallback, ...]:
        """All that may be asked for as things are: also if what is under way is refused."""
        match self.action:
            case "ask":
                return self.asked_for
            case "await_end" | "await_other":
                return self.fallbacks
            case _:
                return ()

    @property
    def asked_for(self) -> tuple[Fallback, ...]:
        """All that may be asked for, in this order, with its price."""
        return (Fallback(self.request, self.price), *self.fallbacks)

    def paid_since(self, attempts: Collection[str]) -> Planned:
        """The same, in which requests of this call are counted as paid by this run.

        Args:
            attempts: All other requests.
        """
        asked_by = self.ledger.asked_by
        before = charges_before(self.record)
        own = (c for c in before if c.asked_by == asked_by and c.attempt not in attempts)
        last = self.record.maybe_paid_by(asked_by) and self.record.attempt not in attempts
        return replace(self, of_this_call=last, own_charges=tuple(own))

    def falling_back(self, asked: Collection[str] = ()) -> Planned | None:
        """The same with the next model; None if there is none left.

        Args:
            asked: Models that are passed over.
        """
        left = [fallback for fallback in self.fallbacks if fallback.request.model not in asked]
        if not left:
            return None
        following, *others = left
        return replace(
            self,
            request=following.request,
            price=following.price,
            fallbacks=tuple(others),
            first=self.listed,
            action="ask",
        )

    def asking(self, record: Record, paid: Credits, ticket: str, price: Credits | None) -> Record:
        """The record when its request leaves; see `Record.asking`.

        Args:
            record: What is known of it.
            paid: What the last request has cost at most, in credits.
            ticket: What the attempt begins with.
            price: What the request costs, in credits, by all that is known now.
        """
        return record.asking(
            self.prompt,
            self.request,
            self.ledger.asked_by,
            paid,
            ticket,
            caller=self.ledger.caller,
            price=price,
            earlier=charges_of(record),
            variables=dict(self.variables),
        )

    @property
    def asked_before(self) -> bool:
        """Whether an earlier attempt of this run has asked for it, and maybe paid."""
        return self.record.ever_asked_in(self.ledger.asked_by)

    def spent(self, prices: Prices, *, cautious: bool = True) -> Credits:
        """What this call has spent on it so far, in credits; on the safe side where no answer told."""
        asked_by, price = self.ledger.asked_by, prices.of(self.record.request)
        last = last_of(asked_by, self.record, price)
        untold = cautious and (last.estimated or last.at_risk)
        worst = (prices.at_worst(self.record.request) or 0) if untold else last.used
        return self.record.paid_before_by(asked_by) + max(worst, last.worst)


def action_of(
    record: Record,
    asked_by: str | None,
    ask_again: Collection[AskAgain] = (),
    answer_within_seconds: float = 0.0,
) -> Action:
    """Say what is to be done with a prompt.

    Args:
        record: What is known of it.
        asked_by: What this call has asked already is not asked again when Prefect retries it.
        ask_again: What is asked again, though it costs, or may cost, a second time.
        answer_within_seconds: A request without an answer that is younger may still get one.
    """
    mine = record.ever_asked_in(asked_by)
    age = record.age_seconds()
    old = age is None or age > answer_within_seconds
    match record.state:
        case _ if record.safe_to_send:
            return "ask"
        case "submitted" | "unknown" if record.can_be_polled:
            return "await_end"
        case "generated":
            return "copy"
        case "warning" if "warnings" in ask_again and not mine:
            return "ask"
        case "failed" | "lost" if "failed" in ask_again and not mine:
            return "ask"
        case "unknown" if "unknown" in ask_again and not mine:
            return "ask"
        case "asked" if "unknown" in ask_again and not mine and old:
            return "ask"
        case "asked" if not record.asked_in(asked_by) and not old:
            return "await_other"
        case _:
            return "reuse"
