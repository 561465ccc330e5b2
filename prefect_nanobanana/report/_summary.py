"""How a run is told in words: one line of counts, the balance, and what the pages show of an outcome."""

from __future__ import annotations

from collections.abc import Mapping

from prefect_nanobanana._common.text import counted, in_bytes, in_credits, number
from prefect_nanobanana.models import (
    OutcomeStatus,
    PendingReport,
    Plan,
    PlannedStep,
    RetentionReport,
    RunReport,
)

NAMES: dict[OutcomeStatus, tuple[str, str]] = {
    "stored": ("stored", "stored"),
    "warning": ("warning", "warnings"),
    "failed": ("failed", "failed"),
    "unknown": ("unknown", "unknown"),
    "skipped": ("skipped", "skipped"),
}


STEPS: dict[PlannedStep, str] = {
    "new": "new",
    "again": "asked for again",
    "resumed": "to be fetched",
    "reused": "done before",
}


def summary(report: RunReport | PendingReport | Plan | RetentionReport) -> str:
    """The run in one line, as `18 stored, 2 warnings; 40 credits used, 960 left`.

    For `copy_pending`: `3 images copied, 1 generation waiting`. For a plan: `13 prompts: 12 new, 1 done
    before; 12 credits; 100 in the account, 88 after`. For `apply_retention`: `3 batches, 40 images;
    2 images would be moved or deleted`.
    """
    if isinstance(report, Plan):
        return _plan(report)
    if isinstance(report, PendingReport):
        return _pending(report)
    if isinstance(report, RetentionReport):
        return _retention(report)
    counts: dict[OutcomeStatus, int] = {
        "stored": report.stored,
        "warning": report.warnings,
        "failed": report.failed,
        "unknown": report.unknown,
        "skipped": report.skipped,
    }
    line = f"{counts_line(counts)}; {in_credits(report.credits_used)} used"
    if report.prompts_estimated:
        line += f" (an estimate for {counted(report.prompts_estimated, 'prompt')})"
    if report.credits_reused:
        line += f", {number(report.credits_reused)} paid earlier"
    if report.remaining_credits is not None:
        line += f", {number(report.remaining_credits)} left"
    if report.credits_unexplained:
        line += f"; {balance_note(report)}"
    if report.unpublished:
        line += f"; could not be published: {', '.join(report.unpublished)}"
    return line


def _retention(report: RetentionReport) -> str:
    images = sum(each.images for each in report.batches)
    line = f"{len(report.batches)} batch{'es' * (len(report.batches) != 1)}, {counted(images, 'image')}"
    if report.dry_run:
        line += f"; {counted(report.due, 'image')} would be moved or deleted"
    else:
        line += f"; {report.moved} moved, {report.deleted} deleted, {in_bytes(report.freed_bytes)} freed"
    if problems := report.problems:
        line += f"; {counted(len(problems), 'problem')}, first {problems[0]}"
    return line


def _plan(plan: Plan) -> str:
    steps = ", ".join(f"{n} {name}" for step, name in STEPS.items() if (n := plan.count(step)))
    price, after = plan.price, plan.balance_after
    line = f"{counted(len(plan.prompts), 'prompt')}: {steps}; "
    line += "an unknown price" if price is None else in_credits(price)
    if price is not None and plan.worst_price != price:
        worst = "an unknown price" if plan.worst_price is None else number(plan.worst_price)
        line += f", at worst {worst} with fallback models"
    line += f"; {number(plan.balance)} in the account"
    if after is not None:
        line += f", {number(after)} after" if after >= 0 else f", {number(-after)} too few"
    for what, bound in (("max_credits", plan.max_credits), ("the budget", plan.budget_left)):
        if bound is not None and (price is None or (plan.worst_price or price) > bound):
            line += f"; {what} ends it at {number(bound)}"
    if plan.warnings:
        line += f"; {counted(len(plan.warnings), 'warning')}"
    return line


def _pending(report: PendingReport) -> str:
    line = f"{counted(report.images, 'image')} copied"
    if report.waiting:
        line += f", {counted(report.waiting, 'generation')} waiting"
    if report.lost:
        line += f", {counted(report.lost, 'generation')} lost ({in_credits(report.credits_lost)})"
    return line


def counts_line(counts: Mapping[OutcomeStatus, int]) -> str:
    """How many came to which end, as `18 stored, 2 warnings`; the others only if there are any."""
    told = ((counts.get(status, 0), NAMES[status]) for status in NAMES)
    return ", ".join(f"{n} {names[n != 1]}" for n, names in told if n or names is NAMES["stored"])


def balance_note(report: RunReport) -> str:
    """Say how far the account's balance agrees with what this run accounts for."""
    gap, risk, estimated = report.credits_unexplained, report.credits_at_risk, report.prompts_estimated
    maybe = f"; requests without an answer cost up to {in_credits(risk)}" if risk else ""
    if estimated:
        maybe += f"; what {counted(estimated, 'prompt')} cost is an estimate, as the API did not say"
    if gap is None:
        return "the account's balance could not be read, so the books were not compared" + maybe
    if gap == 0:
        settled = ", so requests without an answer seem to have cost nothing" if risk else ""
        confirmed = ", so what was estimated seems to be right" if estimated else ""
        return f"the account's balance agrees{settled}{confirmed}"
    if gap < 0:
        lost = f"the account lost {in_credits(-gap)} less than this run accounts for"
        why = "" if estimated else ": refunds or a purchase"
        return f"{lost}{why}{maybe}"
    text = f"the account lost {in_credits(gap)} more than this run has answers for{maybe}"
    theirs, others = min(gap, report.credits_of_other_runs), report.credits_of_others
    if theirs:
        text += f"; up to {in_credits(theirs)} were paid by another run of this batch at the same time"
    if others:
        least = "at least " if risk or theirs else ""
        text += f"; {least}{in_credits(others)} were spent by someone else on the same account"
    return text
