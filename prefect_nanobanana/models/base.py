"""What the package's values have in common: how they are checked, and how their faults are told."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

Credits = int | float
"""The API says "number"; whole in every example seen (seed document)."""


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
