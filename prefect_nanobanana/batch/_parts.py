"""A batch in parts: which prompts are in which, and what each part may spend.

Each part makes the keys of its prompts from the whole list, and so knows them by the same records as a
run that is not divided.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil

from prefect_nanobanana._common.addresses import unsigned
from prefect_nanobanana.batch._planned import Planned
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.models import Part


def part_numbers(planned: Sequence[Planned], parts: int) -> dict[str, int]:
    """Divide a list: as evenly as can be, and in the same way whatever is done already.

    Returns:
        The number of the part, from 1, by the prompt's key.
    """
    keys = sorted(each.record.key for each in planned)
    return {key: place % parts + 1 for place, key in enumerate(keys)}


def part_of(planned: Sequence[Planned], part: Part) -> list[Planned]:
    """The prompts of one part.

    Raises:
        InvalidInput: If the list is another one than that which was divided.
    """
    if list_digest(planned) != part.digest:
        raise InvalidInput(
            "prompts, generator or bucket are not what they were when the batch was divided, so this "
            "part asks for nothing: run the batch again, and change none of them while it runs"
        )
    number = part_numbers(planned, part.of)
    return [each for each in planned if number[each.record.key] == part.number]


def list_digest(planned: Sequence[Planned]) -> str:
    """Tells what is asked for, and where it goes, from all else; signatures play no part."""
    ledger = planned[0].ledger
    asked = [[each.prompt.name, _unsigned(each)] for each in planned]
    text = json.dumps([ledger.store.uri(ledger.key()), asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def ceilings(
    planned: Sequence[Planned],
    number: Mapping[str, int],
    prices: Prices,
    left: int | None,
) -> dict[int, int | None]:
    """What each part may spend, all its attempts together.

    Args:
        planned: All prompts.
        number: The number of each one's part, by its key.
        prices: What they cost.
        left: What they may spend together, in credits; None for no bound.

    Returns:
        The ceiling, in whole credits, by the number of the part; parts with nothing to do are left out.
    """
    prompts: dict[int, list[Planned]] = {}
    for each in planned:
        prompts.setdefault(number[each.record.key], []).append(each)
    busy = {n: its for n, its in sorted(prompts.items()) if any(p.action != "reuse" for p in its)}
    if left is None:
        return dict.fromkeys(busy)
    spent = {n: sum(p.spent(prices) for p in its) for n, its in prompts.items()}
    wanted = {n: Fraction(sum(p.price or 0 for p in _to_ask(its))) for n, its in busy.items()}
    # Rounded up: what parts have spent is not counted a second time.
    free = max(0, left - sum(ceil(credits) for credits in spent.values()))
    found: dict[int, int | None] = {}
    total, given, so_far = sum(wanted.values()), 0, Fraction(0)
    for n, its in busy.items():
        so_far += wanted[n]
        share = int(free * so_far / total) - given if total else 0
        given += share
        if share or len(_to_ask(its)) < sum(p.action != "reuse" for p in its):
            found[n] = int(spent[n]) + share
    return found


def _to_ask(planned: Sequence[Planned]) -> list[Planned]:
    return [each for each in planned if each.action == "ask"]


def _unsigned(planned: Planned) -> dict[str, object]:
    request = planned.listed
    references = [unsigned(url) for url in request.reference_image_urls]
    return request.model_dump(mode="json") | {"reference_image_urls": references}
