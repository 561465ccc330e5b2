"""What a run is to do with each prompt, by the ledger; decided before anything is spent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from prefect_nanobanana.batch._checks import check_prices, requests_of
from prefect_nanobanana.batch._conflicts import Claimed
from prefect_nanobanana.batch._fallbacks import FallbackModels, listed_request
from prefect_nanobanana.batch._keys import PromptKey, identity, prompt_keys, signed_anew
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._parts import ceilings, list_digest, part_numbers, part_of
from prefect_nanobanana.batch._planned import Planned
from prefect_nanobanana.batch._planner import Planner
from prefect_nanobanana.batch._preview import planned_outcome, planned_prompt
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.batch._prompts import Listed
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._references import OFFERED_BEYOND_SECONDS, References
from prefect_nanobanana.batch._spending import last_of
from prefect_nanobanana.batch._timing import TIMING
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import (
    AskAgain,
    Credits,
    ImageModel,
    Part,
    Plan,
    sum_credits,
)
from prefect_nanobanana.report import GalleryItem


@dataclass(frozen=True)
class BatchPlan:
    """What a run is to do.

    Attributes:
        prompts: One per prompt, in the order of the list.
        prices: What requests cost.
        max_credits: The most that the run may spend, in credits.
        spent: What earlier attempts of the run spent on prompts that are not in the list any more.
        warnings: What may not work as it is asked for.
    """

    prompts: tuple[Planned, ...]
    prices: Prices
    max_credits: int | None = None
    spent: Credits = 0
    warnings: tuple[str, ...] = ()

    @property
    def to_ask(self) -> int:
        """For how many prompts the API is to be asked."""
        return sum(planned.action == "ask" for planned in self.prompts)

    @property
    def images(self) -> int:
        """How many images there will be, as far as that is known."""
        return sum(planned.record.request.quantity for planned in self.prompts)

    @property
    def price(self) -> Credits | None:
        """What asking costs in credits, all together; None if a price is not listed."""
        return sum_credits([planned.price for planned in self.prompts if planned.action == "ask"])

    def preview(self, batch: str, balance: Credits) -> Plan:
        """The same as people see it.

        Args:
            batch: The batch's name.
            balance: The account's credits.
        """
        return Plan(
            batch=batch,
            prompts=tuple(planned_prompt(planned) for planned in self.prompts),
            balance=balance,
            max_credits=self._credits_left,
            warnings=self.warnings,
        )

    @property
    def _credits_left(self) -> Credits | None:
        """What this call may still spend, all its attempts together."""
        return None if self.max_credits is None else max(0, self.max_credits - self.all_spent)

    @property
    def all_spent(self) -> Credits:
        """What earlier attempts of the run have spent, in credits; at worst where no answer told."""
        return self.spent + sum(planned.spent(self.prices) for planned in self.prompts)

    @property
    def spent_as_known(self) -> Credits:
        """The same at the prices that are known."""
        return self.spent + sum(p.spent(self.prices, cautious=False) for p in self.prompts)

    def outcomes(self) -> list[GalleryItem]:
        """The outcomes of a run that only plans, in the order of the list."""
        return [planned_outcome(planned) for planned in self.prompts]

    @property
    def digest(self) -> str:
        """Tells what is asked for, and where it goes, from all else."""
        return list_digest(self.prompts)

    @property
    def attempts(self) -> frozenset[str]:
        """The requests that are known of, but for those whose answer nobody has seen yet."""
        records = [planned.record for planned in self.prompts]
        last = {r.attempt for r in records if r.attempt is not None and r.state != "asked"}
        before = {c.attempt for r in records for c in r.earlier or () if c.attempt is not None}
        return frozenset(last | before)

    def after(self, attempts: Collection[str]) -> BatchPlan:
        """The same, in which all other requests of this call are counted as paid by this run."""
        return replace(self, prompts=tuple(planned.paid_since(attempts) for planned in self.prompts))

    def first_of_unconfirmed(self) -> BatchPlan | None:
        """One prompt of each model whose price no answer has confirmed; None if there is none to ask.

        See `fallbacks_for_parts`.
        """
        asked = (planned for planned in reversed(self.prompts) if planned.action == "ask")
        first = {p.request.model: p for p in asked if not self.prices.confirmed(p.request.model)}
        if self.max_credits is None or not first:
            return None
        places = {planned.position for planned in first.values()}
        others = [planned for planned in self.prompts if planned.position not in places]
        spent = self.spent + sum(planned.spent(self.prices) for planned in others)
        return replace(self, prompts=tuple(first.values()), spent=spent)

    def fallbacks_for_parts(self, names: Sequence[str]) -> list[str]:
        """The fallback models that parts may ask: below a ceiling those whose price is confirmed.

        Several processes that do not know a price would each find out, and together break the ceiling.
        What a part leaves for want of a model, the run itself asks for afterwards.
        """
        if self.max_credits is None:
            return [*names]
        return [*takewhile(self.prices.confirmed, names)]

    def parts(self, count: int) -> list[Part]:
        """Divide what is to be done.

        Args:
            count: How many parts the list is divided into.

        Returns:
            Those in which there is something to do.
        """
        number = part_numbers(self.prompts, count)
        left = None if self.max_credits is None else max(0, int(self.max_credits - self.spent))
        digest, ledger = self.digest, self.prompts[0].ledger
        return [
            Part(
                number=n,
                of=count,
                digest=digest,
                asked_by=ledger.asked_by or "",
                caller=ledger.caller,
                max_credits=ceiling,
            )
            for n, ceiling in ceilings(self.prompts, number, self.prices, left).items()
        ]


def make_plan(
    listed: Sequence[Listed],
    generator: NanoBananaGenerator,
    models: Iterable[ImageModel] | None,
    ledger: Ledger,
    *,
    max_credits: int | None,
    bound: str | None = None,
    ask_again: Collection[AskAgain],
    fallback_models: Sequence[str] = (),
    local_files: bool = True,
    logger: Any,
    retried: bool = False,
    part: Part | None = None,
    dry: bool = False,
) -> BatchPlan:
    """Decide what to do with each prompt; all is checked before anything is spent.

    Args:
        listed: The prompts, and where each stands.
        generator: How images are made.
        models: The catalogue; None if it could not be read.
        ledger: What earlier runs have asked, paid and stored.
        max_credits: The most that the run may spend, in credits; None for no bound.
        bound: The parameter that bounds what is spent, so that prices must be known; None if none does.
        ask_again: What is asked, and may be paid, again: `warnings`, `failed`, `unknown`.
        fallback_models: The models that are asked, in this order, if others refuse.
        local_files: Whether references may be files on this machine.
        logger: Is told what the store does not do.
        retried: Whether there may have been earlier attempts of this run, with another list.
        part: Which of the prompts are meant, if not all of them.
        dry: Whether nothing is to follow: the bucket is only read then.

    Raises:
        InvalidInput: If a prompt is wrong, or the ceiling cannot be kept.
        BucketNotUsable: If the bucket refuses what follows payment.
        LedgerError: If a record cannot be read.
    """
    catalogue = None if models is None else {model.name: model for model in models}
    prices = Prices(catalogue or {})
    references = References.of(listed, generator, ledger, local_files=local_files)
    listed = references.unsent(listed)
    requests = references.known(requests_of(listed, generator))
    # A request without an answer that is younger may still get one.
    answer_within = max(TIMING.get().settle_after, generator.credentials.request_timeout_seconds)
    keys = prompt_keys([item.prompt for item in listed], requests)
    found = _records(ledger, keys)
    prices.learn_all(found.values())
    planner = Planner(
        ledger,
        catalogue,
        prices,
        ask_again,
        bounded=bound is not None,
        fallbacks=FallbackModels(fallback_models, catalogue),
        answer_within_seconds=answer_within,
        references=references,
        offered_seconds=generator.credentials.request_timeout_seconds + OFFERED_BEYOND_SECONDS,
    )
    planned = [
        planner.plan(position, item, request, key.key, found.get(key))
        for position, (key, item, request) in enumerate(zip(keys, listed, requests, strict=True), 1)
    ]
    if planner.problems:
        raise InvalidInput(*planner.problems)
    if part is not None:
        planned = part_of(planned, part)
    spent: Credits = 0
    if retried and bound is not None:
        others = ledger.read_others(each.record.key for each in planned)
        for record in others.values():
            last = last_of(ledger.asked_by, record, prices.of(record.request))
            spent += record.paid_before_by(ledger.asked_by) + last.worst
    plan = BatchPlan(tuple(planned), prices, max_credits, spent, _lines(planner.warnings))
    if bound is not None:
        check_prices(plan.prompts, bound)
    first = next((each for each in planned if each.action == "ask"), None)
    if not dry:
        asked = (each.request for each in planned if each.may_be_asked or each.again)
        references.offer(url for request in asked for url in request.reference_image_urls)
        if first is not None:
            _try_the_bucket(first.record, ledger, logger)
    return plan


def _lines(warnings: Mapping[str, list[str]]) -> tuple[str, ...]:
    """One line for all prompts with the same warning: there may be very many."""
    return tuple(
        f"{places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''}: {text}"
        for text, places in warnings.items()
    )


def _records(ledger: Ledger, keys: Sequence[PromptKey]) -> dict[PromptKey, Record]:
    """The records that there are of these prompts, also under keys that earlier versions gave them."""
    read = ledger.read(name for key in keys for name in (key.key, *key.former))
    found = {key: read[name] for key in keys for name in (*key.former, key.key) if name in read}
    if any(key.former and key not in found for key in keys):
        others = ledger.read_others(read)
        told = [
            (name, identity(record.prompt, listed_request(record))) for name, record in others.items()
        ]
        again = signed_anew(keys, read.keys(), told)
        found |= {key: others[again[key.key]] for key in keys if key.key in again}
    return found


def _try_the_bucket(record: Record, ledger: Ledger, logger: Any) -> None:
    """Do with a record all that follows payment, so that a bucket that refuses it is found before."""
    with suppress(Claimed):  # another run has it in hand, which is met again when it is asked for
        ledger.claim(record)
        if not ledger.probe(record):
            logger.info(
                "The store ignores conditional writes: do not run one batch twice at the same time"
            )
