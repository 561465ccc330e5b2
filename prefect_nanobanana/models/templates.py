"""Lists that are templates: a text with variables, and what these stand for."""

from __future__ import annotations

import re
from math import prod
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from prefect_nanobanana.models.base import Frozen, Text

_NAME = re.compile(r"[^\W\d][\w -]*")


class PromptTemplate(Frozen):
    """Makes prompts of texts with variables, as `{product} on {background}, studio light`.

    Every prompt of the list is such a text then, in its name, model, aspect ratio and references, too.
    `{{` and `}}` are braces. A variable is a column of the list, one of `matrix` or `variables`, or one
    of `date`, `weekday`, `day`, `month` and `year`.

    Attributes:
        text: The text of rows without a `prompt` of their own; alone, if there is no list.
        matrix: Values of variables: each prompt is made once for every combination of them.
        exclude: Combinations to leave out, as `{"product": "cup", "background": "slate"}`; what is not
            named may be anything.
        limit: At most so many prompts are made, the first ones; None for no bound.
        variables: Variables with one value.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "description": "Makes prompts of texts with variables, as {product} on {desk}."
        }
    )

    text: Text | None = Field(
        default=None,
        title="Text",
        description="Of rows without a prompt, or alone: {product} on {desk}.",
    )
    matrix: dict[str, list[Text]] = Field(
        default={},
        title="Matrix",
        description='Each prompt is made for every combination: {"product": ["cup", "bowl"]}.',
    )
    exclude: list[dict[str, Text]] = Field(
        default=[], title="Exclude", description="Combinations of the matrix to leave out."
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, title="Limit", description="At most so many prompts, the first ones."
    )
    variables: dict[str, Text] = Field(
        default={}, title="Variables", description="Variables with one value."
    )

    @field_validator("matrix", "exclude", "variables", mode="before")
    @classmethod
    def _without_blanks(cls, value: Any) -> Any:
        """Prompts are stripped, too: values that differ in outer blanks make the same."""
        return _stripped(value)

    @field_validator("matrix")
    @classmethod
    def _has_values(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, values in value.items():
            seen, twice = set[str](), None
            for each in values:
                twice = each if each in seen else twice
                seen.add(each)
            if not values:
                raise ValueError(f"{name} has no values: give some, or remove it")
            if "" in seen:
                raise ValueError(f"{name} has an empty value: remove it")
            if twice is not None:
                raise ValueError(f"{name} has {twice!r} twice: remove one, as each is paid for")
        return value

    @field_validator("matrix", "variables")
    @classmethod
    def _has_names(cls, value: dict[str, object]) -> dict[str, object]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot name a variable: use letters, digits and _")
        return value

    @model_validator(mode="after")
    def _excludes_what_there_is(self) -> PromptTemplate:
        known = {name: set(values) for name, values in self.matrix.items()}
        for combination in self.exclude:
            for name, value in combination.items():
                if value not in known.get(name, ()):
                    raise ValueError(
                        f"exclude: the matrix has no {name} {value!r}: correct or remove it"
                    )
        both = sorted(self.matrix.keys() & self.variables.keys())
        if both:
            raise ValueError(f"{both[0]} is in matrix and in variables: remove one")
        return self

    @property
    def combinations(self) -> int:
        """How many there are in the matrix, those that are left out included."""
        return prod(len(values) for values in self.matrix.values())


def _stripped(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [_stripped(each) for each in value]
    if isinstance(value, dict):
        return {name: _stripped(each) for name, each in value.items()}
    return value
