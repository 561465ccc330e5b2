"""What the package's values have in common: how they are checked, and how their faults are told."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    WithJsonSchema,
)

_AMOUNT = re.compile(r"[+-]?\d{1,15}(\.\d{0,40})?(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE)
_TOO_MUCH = 10**15
_PLACES = 9
"""So many decimal places are kept: a server that adds 0.1 and 0.2 in binary means 0.3."""


def exact_credits(value: Any) -> int | Decimal | None:
    """Read an amount of credits, whatever form it comes in, without binary fractions.

    Args:
        value: A number, or a text that is one.

    Returns:
        The amount, whole numbers as int; None if it is not a number, or none that an account could have.
    """
    if isinstance(value, str):
        value = value.strip()
        if not _AMOUNT.fullmatch(value):
            return None
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    # Written out, a float is the shortest number that means it: 0.1, and not its binary neighbour.
    amount = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not amount.is_finite() or abs(amount) >= _TOO_MUCH:
        return None
    amount = round(amount, _PLACES)
    return int(amount) if amount == int(amount) else amount.normalize()


def json_number(credits: int | Decimal) -> int | float:
    """An amount of credits as JSON writes it."""
    return int(credits) if credits == int(credits) else float(credits)


def _credits(value: Any) -> int | Decimal:
    amount = exact_credits(value)
    if amount is None:
        raise ValueError("is not a number of credits: write it as 20 or 0.5")
    return amount


Credits = Annotated[
    int | Decimal,
    BeforeValidator(_credits),
    PlainSerializer(json_number, return_type=int | float, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "number"}]}),
]
"""The API says "number"; whole in every example seen (seed document). Fractions are decimal ones, so
that sums are exact; in JSON they are numbers."""


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_aware)]
"""A moment with its zone: UTC where none is said, as in records that were corrected by hand."""


def not_negative(value: int | Decimal) -> int | Decimal:
    """Refuse an amount that nothing can have cost.

    Raises:
        ValueError: If it is below 0.
    """
    if value < 0:
        raise ValueError("is below 0")
    return value


class Frozen(BaseModel):
    """Values that nobody changes; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def refuse_half_characters(value: str) -> str:
    """Refuse text that cannot be written as UTF-8.

    Raises:
        ValueError: If it holds half of a character, as JSON of careless programs does.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start + 1} is half of one (a lone surrogate): write the text anew"
        ) from None
    return value


Text = Annotated[str, AfterValidator(refuse_half_characters)]


def describe_errors(error: Any) -> list[str]:
    """Say pydantic's errors as `field: what is wrong`, without the values, which may be secret."""
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        # Union branches put the branch's name into the location; only field names help a person.
        place = ".".join(str(p) for p in item["loc"] if not str(p).startswith(("constrained", "is-")))
        text = item["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {text}" if place else text)
    return lines
