"""A part of a batch that several processes work on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from prefect_nanobanana.models.base import Frozen
from prefect_nanobanana.models.charges import Caller


class Part(Frozen):
    """What a part of a batch must know to be one.

    Attributes:
        number: Which part it is, from 1.
        of: How many there are.
        digest: Tells the list that was divided from all others.
        asked_by: The call that it is a part of, as records name it.
        caller: Whom it asks for, as records name it.
        max_credits: The most that it may spend, in credits, all its attempts together; None for no
            bound.
    """

    number: Annotated[int, Field(ge=1)]
    of: Annotated[int, Field(ge=1)]
    digest: str
    asked_by: str
    caller: Caller | None = None
    max_credits: Annotated[int, Field(ge=0)] | None = None
