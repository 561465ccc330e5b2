"""What a run is to do with each prompt, by the ledger; decided before anything is spent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from prefect_nanobanana.batch._conflicts import Claimed
from prefect_nanobanana.batch._keys import PromptKey, identity, prompt_keys, signed_anew
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.batch._prompts import Listed
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._spending import last_of
from prefect_nanobanana.batch._timing import TIMING
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import (
    DEFAULT_MODEL,
    AskAgain,
    Credits,
    ImageModel,
    ImagePrompt,
    ImageRequest,
)

Action = Literal["ask", "await_end", "await_other", "copy", "reuse"]


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
    """

    position: int
    record: Record
    prompt: ImagePrompt
    request: ImageRequest
    price: Credits | None
    action: Action
    ledger: Ledger
    again: bool = False

    @property
    def asked_before(self) -> bool:
        """Whether an earlier attempt of this run has asked for it, and maybe paid."""
        return self.record.ever_asked_in(self.ledger.asked_by)


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Attributes:
        prompts: One per prompt, in the order of the list.
        prices: What requests cost.
        max_credits: The most that the run may spend, in credits.
        spent: What earlier attempts of the run spent on prompts that are not in the list any more.
    """

    prompts: tuple[Planned, ...]
    prices: Prices
    max_credits: int | None = None
    spent: Credits = 0

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
        prices = [planned.price for planned in self.prompts if planned.action == "ask"]
        known = [price for price in prices if price is not None]
        return sum(known) if len(known) == len(prices) else None


def make_plan(
    listed: Sequence[Listed],
    generator: NanoBananaGenerator,
    models: Iterable[ImageModel],
    ledger: Ledger,
    *,
    max_credits: int | None,
    ask_again: Collection[AskAgain],
    logger: Any,
    retried: bool = False,
) -> Plan:
    """Decide what to do with each prompt; all is checked before anything is spent.

    Args:
        listed: The prompts, and where each stands.
        generator: How images are made.
        models: The catalogue.
        ledger: What earlier runs have asked, paid and stored.
        max_credits: The most that the run may spend, in credits; None for no bound.
        ask_again: What is asked, and may be paid, again: `warnings`, `failed`, `unknown`.
        logger: Is told what the store does not do.
        retried: Whether there may have been earlier attempts of this run, with another list.

    Raises:
        InvalidInput: If a prompt is wrong, or the ceiling cannot be kept.
        BucketNotUsable: If the bucket refuses what follows payment.
        LedgerError: If a record cannot be read.
    """
    catalogue = {model.name: model for model in models}
    prices = Prices(catalogue)
    requests = _requests(listed, generator)
    # A request without an answer that is younger may still get one.
    answer_within = max(TIMING.get().settle_after, generator.credentials.request_timeout_seconds)
    keys = prompt_keys([item.prompt for item in listed], requests)
    found = _records(ledger, keys)
    prices.learn_all(found.values())
    planned, problems = [], []
    for position, (key, item, request) in enumerate(zip(keys, listed, requests, strict=True), 1):
        record = found.get(key) or Record(key=key.key, prompt=item.prompt, request=request)
        record = record.listed(position, item.prompt, request)
        action = action_of(record, ledger.asked_by, ask_again, answer_within)
        if action != "reuse" and key in found:  # what will be written again is read itself
            record = ledger.whole(record).listed(position, item.prompt, request)
        if action == "ask":  # what is paid already needs its model no more
            problems += [f"{item.place}: {text}" for text in _problems(request, catalogue)]
        resend = "unknown" in ask_again and not record.ever_asked_in(ledger.asked_by)
        again = action == "await_end" and resend
        price = prices.of(request)
        planned.append(Planned(position, record, item.prompt, request, price, action, ledger, again))
    if problems:
        raise InvalidInput(*problems)
    spent: Credits = 0
    if retried and max_credits is not None:
        others = ledger.read_others(each.record.key for each in planned)
        for record in others.values():
            last = last_of(ledger.asked_by, record, prices.of(record.request))
            spent += record.paid_before_by(ledger.asked_by) + last.worst
    plan = Plan(tuple(planned), prices, max_credits, spent)
    if max_credits is not None:
        _check_ceiling(plan)
    first = next((each for each in planned if each.action == "ask"), None)
    if first is not None:
        _try_the_bucket(first.record, ledger, logger)
    return plan


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


def _requests(listed: Sequence[Listed], generator: NanoBananaGenerator) -> list[ImageRequest]:
    requests: list[ImageRequest] = []
    problems: list[str] = []
    for item in listed:
        try:
            requests.append(generator.request(item.prompt))
        except InvalidInput as error:
            problems += [f"{item.place}: {problem}" for problem in error.problems]
    if problems:
        raise InvalidInput(*problems)
    return requests


def _records(ledger: Ledger, keys: Sequence[PromptKey]) -> dict[PromptKey, Record]:
    """The records that there are of these prompts, also under keys that earlier versions gave them."""
    read = ledger.read(name for key in keys for name in (key.key, *key.former))
    found = {key: read[name] for key in keys for name in (*key.former, key.key) if name in read}
    if any(key.former and key not in found for key in keys):
        others = ledger.read_others(read)
        told = [(name, identity(record.prompt, record.request)) for name, record in others.items()]
        again = signed_anew(keys, read.keys(), told)
        found |= {key: others[again[key.key]] for key in keys if key.key in again}
    return found


def _problems(request: ImageRequest, models: dict[str, ImageModel]) -> list[str]:
    model = models.get(request.model)
    if model is None:
        if request.model == DEFAULT_MODEL:
            return []  # documented as the default, whether it is listed or not
        return [f"model: the API has no {request.model!r}: it has {', '.join(sorted(models)) or 'none'}"]
    if request.reference_image_urls and not model.supports_image_input:
        return [f"reference_image_urls: {model.name} takes no reference images: remove them"]
    return []


def _check_ceiling(plan: Plan) -> None:
    """Refuse a ceiling that cannot be kept.

    Raises:
        InvalidInput: If it cannot, as the price of something to ask for is not listed, or not credible.
    """
    for planned in plan.prompts:
        price, model = planned.price, planned.request.model
        if planned.action != "ask" or (price is not None and price > 0):
            continue
        unlisted = f"does not list the price of {model!r}"
        what = unlisted if price is None else f"lists {model!r} at {price} credits"
        raise InvalidInput(
            f"max_credits: cannot be kept, as the API {what}: leave max_credits empty, or take a model "
            "whose price is listed"
        )


def _try_the_bucket(record: Record, ledger: Ledger, logger: Any) -> None:
    """Do with a record all that follows payment, so that a bucket that refuses it is found before."""
    with suppress(Claimed):  # another run has it in hand, which is met again when it is asked for
        ledger.claim(record)
        if not ledger.probe(record):
            logger.info(
                "The store ignores conditional writes: do not run one batch twice at the same time"
            )
