"""How each prompt ended: one outcome per prompt, made of its record."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prefect_nanobanana._common.task_names import run_name
from prefect_nanobanana._common.text import in_credits
from prefect_nanobanana.batch._charges import charges_of
from prefect_nanobanana.batch._provenance import provenance_of
from prefect_nanobanana.batch._record import Record, State
from prefect_nanobanana.batch._spending import Spending, with_charges
from prefect_nanobanana.errors import LedgerError, StorageError
from prefect_nanobanana.models import Charge, Credits, Generation, Outcome, OutcomeStatus, Try
from prefect_nanobanana.report import GalleryItem

if TYPE_CHECKING:
    from prefect_nanobanana.batch._ledger import Ledger

_NOTHING = Spending()


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one prompt of a run; it is all that a run keeps of it.

    Attributes:
        batch: The batch's name.
        key: The prompt's key.
        state: Of its record.
        progress: How far it got; see `progress_of`.
        new_images: How many images this run has copied.
        credits_used: What its record says that it cost, in credits.
        item: Its outcome, with what the pages show of it.
    """

    batch: str
    key: str
    state: State
    progress: str
    new_images: int
    credits_used: Credits
    item: GalleryItem

    @property
    def name(self) -> str:
        """What people call the prompt: one short line."""
        prompt = self.item.outcome.prompt
        return run_name(prompt.name or prompt.prompt)


@dataclass(frozen=True)
class Recorded:
    """What the records of a batch say.

    Attributes:
        items: The outcomes of prompts.
        charges: What each request has cost.
    """

    items: list[GalleryItem]
    charges: list[Charge]


class PreviewRoom:
    """Bounds the small pictures that a run holds until its gallery page is written.

    Args:
        room: How many bytes there may be; the page will load the pictures of all others themselves.
    """

    def __init__(self, room: int) -> None:
        self._room = room

    def kept(self, ended: Ended) -> Ended:
        """The same, without its small pictures if there is no room for them."""
        size = sum(map(len, ended.item.thumbnails))
        if size > self._room:
            return replace(ended, item=replace(ended.item, thumbnails=()))
        self._room -= size
        return ended


def outcome_of_record(record: Record, price: Credits | None) -> tuple[OutcomeStatus, str | None]:
    """The end to which earlier runs had brought a prompt, or in which they had died; and why."""
    match record.state:
        case "stored" | "warning" | "failed":
            return record.state, record.message
        case "lost":
            return "failed", record.message
        case "generated":
            return "failed", record.message or "paid, but its images were not copied yet"
        case "asked":
            when = f"{record.asked_at:%Y-%m-%d %H:%M} UTC" if record.asked_at else "some time"
            why = f"a run asked at {when} and recorded no answer: it died, or is still waiting"
            return "unknown", f"{why}; {_maybe_paid(price)}"
        case "submitted":
            why = (
                record.message
                or f"generation {record.generation_id} was begun; its end was not seen yet"
            )
            paid = "paid" if record.credits_used else "maybe paid"
            return "unknown", f"{why}; {paid}, and the batch's next run asks for its end"
        case "unknown":
            return "unknown", f"{record.message}; {_maybe_paid(price)}"
        case _:
            return "skipped", record.message or "not asked yet"


def make_outcome(
    position: int,
    record: Record,
    status: OutcomeStatus,
    message: str | None,
    *,
    reused: bool,
    by_other_run: bool = False,
    spending: Spending = _NOTHING,
    before: Sequence[Charge] = (),
) -> GalleryItem:
    """Make the outcome of a prompt, and what the pages show of it.

    Args:
        position: Its place in the list, from 1.
        record: What is known of it.
        status: Its end.
        message: Why.
        reused: Whether it was another run that asked for it.
        by_other_run: Whether that was at work at the same time.
        spending: What the last request has cost.
        before: What requests of this run before the last one have cost.
    """
    charges, whole = charges_of(record), with_charges(spending, before)
    spent_before = whole.used - spending.used
    cost = record.credits_used + record.credits_before
    earlier = reused and (cost > 0 or status == "unknown")
    generation = record.generation if status != "skipped" else None
    outcome = Outcome(
        position=position,
        prompt=record.prompt,
        status=status,
        generation=generation and _without_data(generation),
        images=tuple(record.images[n] for n in sorted(record.images)),
        credits_used=cost if earlier else record.credits_used + spent_before,
        credits_at_risk=whole.at_risk,
        credits_estimated=whole.estimated,
        reused=earlier,
        by_other_run=earlier and by_other_run,
        credits_own=spent_before if earlier else 0,
        message=message or (_refused_before(charges) if status == "stored" else None),
        tries=tuple(map(_try, charges)) if len(charges) > 1 else (),
    )
    thumbnails = tuple(record.thumbnails.get(n, "") for n in sorted(record.images))
    origin = provenance_of(record)
    return GalleryItem(
        outcome, thumbnails, record.request.quantity, charges, spent_before, provenance=origin
    )


def recorded_outcomes(
    ledger: Ledger, logger: logging.Logger | logging.LoggerAdapter[Any], without: Sequence[Ended] = ()
) -> Recorded | None:
    """Make outcomes of what earlier runs and lists of the batch left, so that pages go on naming them.

    Args:
        ledger: The batch's.
        logger: Is told if the records cannot be read.
        without: Prompts to leave out, and to count on after.

    Returns:
        What they left, in the order of the lists, and what all records say of credits; what was never
        asked is left out if others are. None if the records cannot be read, which is said.
    """
    known = {ended.key: ended.item.charges for ended in without}
    try:
        found = ledger.read_others(known, changed=True)
    except (StorageError, LedgerError) as error:
        logger.warning("The other records of batch %r could not be read: %s", ledger.batch, error)
        return None
    charges = {**known, **{key: charges_of(record) for key, record in found.items()}}
    others = (record for key, record in found.items() if key not in known)
    records = sorted(others, key=lambda r: (r.position or sys.maxsize, r.key))
    kept = [r for r in records if not (without and r.safe_to_send and not r.credits_before)]
    items = [
        make_outcome(position, record, *outcome_of_record(record, None), reused=True)
        for position, record in enumerate(kept, len(without) + 1)
    ]
    return Recorded(items, [charge for its in charges.values() for charge in its])


def _refused_before(charges: Sequence[Charge]) -> str | None:
    """Says so if other models have refused what the last one made."""
    if not charges:
        return None
    *before, last = charges
    refused = [c for c in before if c.status == "warning" and c.model != last.model]
    told = ", ".join(f"{charge.model} ({in_credits(charge.credits)})" for charge in refused)
    return f"made by {last.model}; refused by {told}" if refused else None


def _try(charge: Charge) -> Try:
    return Try(
        model=charge.model,
        status=charge.status,
        credits_used=charge.credits,
        credits_at_risk=charge.at_risk,
        images=charge.images,
    )


def _maybe_paid(price: Credits | None) -> str:
    if price is None:
        return "maybe paid, at an unknown price, and not asked again"
    return f"maybe paid ({in_credits(price)}), and not asked again"


def _without_data(generation: Generation) -> Generation:
    """The generation without pictures in its URLs, which would swell reports and manifests."""
    urls = tuple(
        url.partition(",")[0] + ",..." if url.startswith("data:") else url
        for url in generation.image_urls
    )
    return generation.model_copy(update={"image_urls": urls})
