"""A plan as people see it before anything is spent, and the outcomes of a run that only plans."""

from __future__ import annotations

from prefect_nanobanana._common.text import in_credits
from prefect_nanobanana.batch._outcomes import make_outcome, outcome_of_record
from prefect_nanobanana.batch._planned import Planned
from prefect_nanobanana.models import PlannedPrompt, PlannedStep, sum_credits, unsigned_prompt
from prefect_nanobanana.report import GalleryItem


def planned_prompt(planned: Planned) -> PlannedPrompt:
    """What is to be done with one prompt, as people see it."""
    asked, request = planned.action == "ask", planned.request
    fallbacks = planned.may_be_asked[asked:]
    return PlannedPrompt(
        position=planned.position,
        place=planned.place,
        prompt=unsigned_prompt(planned.prompt),
        step=_step(planned),
        model=planned.record.request.model if planned.action == "reuse" else request.model,
        quantity=request.quantity,
        aspect_ratio=request.aspect_ratio,
        references=len(request.reference_image_urls),
        price=planned.price if asked else 0,
        fallbacks=tuple(fallback.request.model for fallback in fallbacks),
        fallback_price=sum_credits([fallback.price for fallback in fallbacks]),
    )


def planned_outcome(planned: Planned) -> GalleryItem:
    """A prompt in a run that only plans: what earlier runs made of it, or skipped."""
    record = planned.record
    if planned.action == "ask":
        price = "an unknown price" if planned.price is None else in_credits(planned.price)
        return make_outcome(
            planned.position,
            record,
            "skipped",
            f"a dry run asks for nothing; it would cost {price}",
            reused=not record.safe_to_send,
        )
    return make_outcome(planned.position, record, *outcome_of_record(record, planned.price), reused=True)


def _step(planned: Planned) -> PlannedStep:
    if planned.action == "ask":
        return "new" if planned.record.safe_to_send else "again"
    return "reused" if planned.action == "reuse" else "resumed"
