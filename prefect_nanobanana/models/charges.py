"""What single requests have cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from prefect_nanobanana.models.base import Credits, not_negative

ChargeStatus = Literal["stored", "waiting", "warning", "failed", "unknown", "earlier"]
"""`earlier`: of a request before the last one, by a version that did not keep what became of it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        flow: The outermost flow, with its deployment if it has one, as `daily_images/mornings`.
        account: What tells accounts apart, without giving away the key.
        flow_run_id: That flow's run.
    """

    flow: str | None = None
    account: str | None = None
    flow_run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one request has cost.

    Attributes:
        asked_at: When it left, UTC.
        caller: Who asked.
        asked_by: The call that sent it, as records name it.
        attempt: Tells it from all other requests.
        model: Which model.
        status: What became of it: `stored`, `waiting` (its images are not in S3 yet), `warning`,
            `failed` (no images, or lost ones), `unknown` (maybe paid), or `earlier` (nobody kept it).
        credits: What it has cost, in credits.
        estimated: Whether that is an estimate, as the API did not say.
        at_risk: What it may have cost besides, at the price that was known when it left.
        images: How many images it has yielded that are in S3.
        quantity: How many were asked for.
    """

    asked_at: datetime | None = None  # records leave out what is None
    caller: Caller = Caller()
    asked_by: str | None = None
    attempt: str | None = None
    model: str
    status: ChargeStatus
    credits: Annotated[Credits, AfterValidator(not_negative)]
    estimated: bool = False
    at_risk: Annotated[Credits, AfterValidator(not_negative)] = 0
    images: Annotated[int, Field(ge=0, lt=10**6)]
    quantity: Annotated[int, Field(ge=0, lt=10**6)]

    @property
    def without_image(self) -> Fraction:
        """The part of its cost that no stored image came of, in credits."""
        lacking = max(0, self.quantity - self.images)
        return Fraction(self.credits) * Fraction(lacking, max(1, self.quantity))
