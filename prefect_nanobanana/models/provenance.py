"""Where an outcome comes from: who asked for what, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from prefect_nanobanana.models.charges import Caller
from prefect_nanobanana.models.prompts import ImageRequest


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one of a prompt's images comes from.

    Attributes:
        place: Which of the prompt's images it is, from 1; those of earlier requests come first.
        stored_at: When it was in S3, UTC; None if no record says so.
        earlier: Whether an earlier request than the last one has made it.
    """

    place: int
    stored_at: datetime | None = None
    earlier: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where an outcome comes from: who asked for what, and when.

    Attributes:
        key: The prompt's key, by which its record is found.
        request: What the API was asked, or would be.
        variables: What the variables of the prompt's template stood for, in their order.
        asked_at: When the last request left, UTC; None if none has.
        caller: Whom that was sent for.
        flow_run_id: The flow run that sent it.
        images: One for each image of the outcome.
    """

    key: str
    request: ImageRequest
    variables: tuple[tuple[str, str], ...] = ()
    asked_at: datetime | None = None
    caller: Caller = field(default_factory=Caller)
    flow_run_id: str | None = None
    images: tuple[Origin, ...] = ()
