"""A person's approval: a run that would cost more than some bound waits for it, suspended."""

# No `from __future__ import annotations` here: Prefect makes a form of the annotations.

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Cancelled
from pydantic import ConfigDict, Field, create_model

from prefect_nanobanana._common.text import in_credits
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.flows._asked import answer_to, can_be_suspended, current_run, was_asked
from prefect_nanobanana.flows._call import Call
from prefect_nanobanana.flows._work import Work
from prefect_nanobanana.models import Credits, Plan
from prefect_nanobanana.report import summary

APPROVE_WITHIN_SECONDS = 86_400
"""How long a run waits for a person by default: a day."""
_KEY = "nanobanana-approval"
"""Prefect asks once under a key, and then returns the answer, until the run is retried."""


class Approval(RunInput):
    """What a person decides on a run.

    Attributes:
        decision: Whether it may spend at all.
        up_to_credits: The most that it may spend, all its attempts together, in credits.
    """

    # The form proposes values, and a resumption that names none is refused by Prefect's server.
    model_config = ConfigDict(json_schema_extra={"required": ["decision", "up_to_credits"]})

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
        The call, which may spend what was approved, or else what needs no approval, in all attempts
        together; None if it was refused.

    Raises:
        InvalidInput: If the run cannot be suspended, as it is not a deployment's own run, or was resumed
            without an answer.
        NanoBananaError: If the plan cannot be made.
    """
    if call.approve_above is None:
        return call
    work = Work.of_flow_run(call, batch, dry=True)
    plan, spent = work.preview(), work.spent
    run = current_run()
    earlier = _answer(run) if run is not None and run.run_count > 1 else None
    allowed, what = call.approve_above, f"the {call.approve_above} that need no approval"
    if earlier is not None and earlier.decision == "approve":
        allowed = earlier.up_to_credits
        what = f"is left of the {allowed} that were approved"
    if call.max_credits is not None and call.max_credits <= allowed:
        return _bounded(call, allowed)  # whatever it would cost, it may spend no more
    if not was_asked(run, _KEY):
        if plan.worst_price is not None and spent + plan.worst_price <= allowed:
            return _bounded(call, allowed)
        if not can_be_suspended(run):
            raise InvalidInput(
                f"approve_above: this would cost {_price(plan)}, more than {what}, and only a run of a "
                "deployment of this flow can wait for a person: start it as one, or raise "
                "approve_above; nothing was spent"
            )
        work.plan()
        call.logger.warning(
            "A person must approve this until %s UTC: on the run's page in Prefect's UI, choose Resume",
            f"{datetime.now(UTC) + timedelta(seconds=within_seconds):%Y-%m-%d %H:%M}",
        )
    form = _form(plan, what, spent)
    suspend_flow_run(wait_for_input=form, timeout=within_seconds, key=_KEY)
    # Not what that returns: of what was not said it would take the form's proposals, made anew by now.
    answer = _answer(run)
    if answer is None:
        raise InvalidInput(
            "approve_above: the run was resumed without an answer, so nothing is spent: press Retry, "
            "and answer in the form"
        )
    return None if answer.decision == "refuse" else _bounded(call, answer.up_to_credits)


def _bounded(call: Call, credits: int) -> Call:
    call.logger.info("May spend up to %s", in_credits(credits))
    bounds = [bound for bound in (call.max_credits, credits) if bound is not None]
    return replace(call, max_credits=min(bounds))


def _answer(run: FlowRun | None) -> Approval | None:
    """What a person has answered the run; None if nobody has, or not in full."""
    given = answer_to(run, _KEY)
    if given is None or not given.keys() >= {"decision", "up_to_credits"}:
        return None
    return Approval.model_validate(given)


def refused_state() -> State:
    """The state of a run that a person has refused: grey, so that nobody is alarmed."""
    return Cancelled(message="refused by a person: this attempt asked for nothing and spent nothing")


def _form(plan: Plan, what: str, spent: Credits) -> type[Approval]:
    """The form in which a person answers; it proposes what the plan costs."""
    known = sum((p.price or 0) + (p.fallback_price or 0) for p in plan.prompts)
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
            f"**{summary(plan)}**\n\nThis costs {_price(plan)}, more than {what}. The run's artifact "
            "`plan` lists it prompt by prompt. Nothing of it is spent yet; if you refuse, nothing will "
            "be."
        )
    )


def _price(plan: Plan) -> str:
    worst = plan.worst_price
    if worst is None:
        return "an unknown price"
    return in_credits(worst) if worst == plan.price else f"up to {in_credits(worst)}"
