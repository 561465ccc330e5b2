"""A person's approval: a run that would cost more than some bound waits for it, suspended."""

# No `from __future__ import annotations` here: Prefect makes a form of the annotations.

import math
from dataclasses import replace
from typing import Literal

from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Cancelled
from pydantic import Field, create_model

from prefect_nanobanana._common.text import in_credits
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.flows._call import Call, needs_approval
from prefect_nanobanana.flows._work import Work
from prefect_nanobanana.models import Credits, Plan
from prefect_nanobanana.report import summary

APPROVE_WITHIN_SECONDS = 86_400
"""How long a run waits for a person by default: a day."""
_KEY = "nanobanana-approval"
"""Prefect asks once under a key, and after that returns the answer, until a person presses Retry."""


class Approval(RunInput):
    """What a person decides on a run.

    Attributes:
        decision: Whether it may spend at all.
        up_to_credits: The most that it may spend, all its attempts together, in credits.
    """

    decision: Literal["approve", "refuse"] = "approve"
    up_to_credits: int = Field(default=0, ge=0)


def approved(call: Call, batch: str | None, within_seconds: int) -> Call | None:
    """Have the call approved, if it would cost more than it may without.

    The run is then suspended: it holds no process, no worker and no slot, and its plan is its artifact.
    When a person has answered in Prefect's UI, a worker begins the flow anew, and this returns.

    Args:
        call: What the flow was called with.
        batch: The batch's name, as it was given.
        within_seconds: After so many seconds without an answer, Prefect's server has the run fail.

    Returns:
        The call, which may spend what was approved; None if it was refused.

    Raises:
        InvalidInput: If the run cannot be suspended, as it is not a deployment's own run.
        NanoBananaError: If the plan cannot be made.
    """
    if call.approve_above is None:
        return call
    work = Work.of_flow_run(call, batch, dry=True)
    plan = work.preview()
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    answered = run is not None and _KEY in (run.empirical_policy.pause_keys or ())
    if not answered:
        if not needs_approval(plan, call.approve_above):
            return call
        if run is None or run.deployment_id is None or run.parent_task_run_id is not None:
            raise InvalidInput(
                f"approve_above: this would cost {_price(plan)}, more than {call.approve_above}, and "
                "only a run of a deployment of this flow can wait for a person: start it as one, or "
                "raise approve_above; nothing was spent"
            )
        work.plan()
    answer = suspend_flow_run(
        wait_for_input=_form(plan, call.approve_above, work.spent), timeout=within_seconds, key=_KEY
    )
    if answer.decision == "refuse":
        return None
    call.logger.info("Approved up to %s", in_credits(answer.up_to_credits))
    bounds = [bound for bound in (call.max_credits, answer.up_to_credits) if bound is not None]
    return replace(call, max_credits=min(bounds))


def refused_state() -> State:
    """The state of a run that a person has refused: grey, so that nobody is alarmed."""
    return Cancelled(message="refused by a person: this attempt asked for nothing and spent nothing")


def _form(plan: Plan, approve_above: int, spent: Credits) -> type[Approval]:
    """The form in which a person answers; it proposes what the plan costs."""
    known = sum(planned.price or 0 for planned in plan.prompts if planned.asked)
    so_far = f" The run has spent {in_credits(spent)} so far; that is included." if spent else ""
    form = create_model(
        "Approval",
        __base__=Approval,
        up_to_credits=(
            int,
            Field(
                default=math.ceil(spent + known),
                ge=0,
                title="Up to (credits)",
                description=f"The most that the run may spend; what does not fit is skipped.{so_far}",
            ),
        ),
    )
    return form.with_initial_data(
        description=(
            f"**{summary(plan)}**\n\nThis costs {_price(plan)}, more than the {approve_above} that "
            "need no approval. The run's artifact `plan` lists it prompt by prompt. Nothing is spent "
            "yet; if you refuse, nothing will be."
        )
    )


def _price(plan: Plan) -> str:
    return "an unknown price" if plan.price is None else in_credits(plan.price)
