"""What the jobs of a run share: whether it goes on, what it may spend, and what is said of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from prefect_nanobanana._common.task_names import run_name
from prefect_nanobanana._common.text import counted, in_credits
from prefect_nanobanana.batch._budget import Budget
from prefect_nanobanana.batch._ending import end_of
from prefect_nanobanana.batch._fallbacks import refuses_model
from prefect_nanobanana.batch._job import Job
from prefect_nanobanana.batch._log_lines import LogLines
from prefect_nanobanana.batch._outcomes import Ended
from prefect_nanobanana.batch._plan import BatchPlan
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._spending import Spending, last_of
from prefect_nanobanana.batch._told import NotSent
from prefect_nanobanana.batch._turns import Turns
from prefect_nanobanana.budgets import Grants
from prefect_nanobanana.errors import (
    AccessNotEnabled,
    AuthenticationFailed,
    BucketNotUsable,
    CreditsUsedUp,
    LedgerError,
    ModelNotAllowed,
    NanoBananaError,
    NotCharged,
    QuotaExceeded,
    ServerBusy,
    StorageError,
)
from prefect_nanobanana.models import Credits, Generation, ImageRequest, OutcomeStatus
from prefect_nanobanana.progress import Tracker, Watcher
from prefect_nanobanana.report import emit_image_missing

Logger = logging.Logger | logging.LoggerAdapter[Any]

HOPELESS = (CreditsUsedUp, AuthenticationFailed, AccessNotEnabled, QuotaExceeded)
"""Refusals that no other prompt of the run would escape."""


class RunControl:
    """What the jobs of a run share; the `RunHandle` of its jobs.

    Args:
        plan: What the run is to do.
        logger: Is told of each prompt's end, within bounds.
        watcher: Is told how far the run is.
        grants: What the run may spend of a shared budget, if it has one.
    """

    def __init__(
        self, plan: BatchPlan, logger: Logger, watcher: Watcher | None, grants: Grants | None = None
    ) -> None:
        self._logger = logger
        self._prices = plan.prices
        self._expected = {p.position: p.price or 0 for p in plan.prompts if p.action == "ask"}
        self._budget = Budget(plan.max_credits, plan.prices, plan.spent, grants, len(self._expected))
        for planned in plan.prompts:
            if planned.asked_before:
                record, asked_by = planned.record, planned.ledger.asked_by
                last = last_of(asked_by, record, plan.prices.of(record.request))
                self._count(planned.position, record, last, record.paid_before_by(asked_by))
        self._admitted_for = grants.holds_for if grants is not None else None
        self._lines = LogLines(logger, len(plan.prompts))
        self._tracker = Tracker(len(plan.prompts), expected=plan.price, also=watcher)
        self._turns = Turns()
        self._lock = threading.Lock()
        self._stopped: str | None = None
        self._refunds = False
        self._answered = Spending()
        self._refused_models: dict[str, str] = {}

    @property
    def stopped(self) -> str | None:
        """Why nothing more is sent; None while the run goes on."""
        return self._stopped

    @property
    def refunds(self) -> bool:
        """Whether the account may have got credits back, so that its balance proves nothing."""
        return self._refunds

    def why_not(self, job: Job) -> str | None:
        """Why a job cannot be asked for: the run was stopped, or its model needs another plan."""
        with self._lock:
            return self._stopped or self._refused_models.get(job.planned.request.model)

    def is_refused(self, model: str) -> bool:
        """Whether a model has refused all prompts."""
        with self._lock:
            return model in self._refused_models

    def refused_by_model(self, job: Job) -> bool:
        """Whether the model that a job has asked refused it: at its price, or for nothing."""
        model, error = job.planned.request.model, job.error
        needs_plan = isinstance(error, AccessNotEnabled) and self.is_refused(model)
        return job.refused or needs_plan or refuses_model(error, model)

    def stop(self, why: str, error: NanoBananaError | None = None) -> None:
        """Send nothing more."""
        with self._lock:
            if self._stopped is None:
                self._stopped = why
                if error is not None:
                    self._logger.error("Nothing more is asked for: %s", error)

    def say_stopping(self, under_way: int, seconds: float | None) -> None:
        """Say how long what is paid for is waited for; nothing under way: not any longer."""
        if not under_way:
            self._logger.warning("Stopping: what is under way is not waited for any more")
            return
        self._logger.warning(
            "Stopping: waiting%s for what is paid for, %s; Ctrl-C or another signal ends this at once",
            "" if seconds is None else f" up to {seconds:g} s",
            counted(under_way, "request") + " and copies",
        )

    def price(self, request: ImageRequest) -> Credits | None:
        """What a request costs in credits, by all that is known now."""
        return self._prices.of(request)

    def begin(self, job: Job) -> None:
        """Wait until it is a job's turn to have its task run begin."""
        self._turns.take(job.planned.position)

    def begun(self, job: Job) -> None:
        """Its task run has begun, or never will."""
        self._turns.end(job.planned.position)

    # Money.

    def reserve(self, job: Job) -> str | None:
        """Set credits aside for a job whose turn has come; says why not if that exceeds a bound."""
        return self._over_bound(job, self._budget.reserve)

    def settle(self, job: Job) -> None:
        """Count what a job has cost this run, or may have."""
        if job.planned.asked_before and job.planned.action != "ask":
            return  # counted already, and not asked again
        free = job.reused or job.record.safe_to_send
        spending = Spending() if free else job.spending(self.price(job.record.request))
        earlier = job.record.paid_before_by(job.planned.ledger.asked_by)
        self._count(job.planned.position, job.record, spending, earlier)

    def _count(self, position: int, record: Record, spending: Spending, earlier: Credits = 0) -> None:
        untold = spending.estimated or spending.at_risk
        told = earlier + (0 if untold else spending.used)
        self._budget.settle(position, told, record.request if untold else None)

    def admit(self, job: Job) -> None:
        """A request is about to leave.

        Raises:
            NotSent: If it must not, as the run was stopped, or that would exceed a bound.
        """
        why = self._stopped or self._over_bound(job, self._budget.confirm)
        why = self._stopped or why  # it may have been stopped meanwhile
        if why is not None:
            raise NotSent(why)

    @property
    def admitted_for(self) -> float | None:
        """How long an admission holds, in seconds: others may take what is set aside after that."""
        return self._admitted_for

    def close(self) -> None:
        """Give back what was set aside of a shared budget, and not spent."""
        try:
            self._budget.close()
        except StorageError as error:
            self._logger.warning("Credits that were set aside could not be given back: %s", error)

    def _over_bound(self, job: Job, set_aside: Callable[[int, ImageRequest], str | None]) -> str | None:
        """Why a job's request exceeds a bound; without the budget's books nothing more is sent."""
        try:
            return set_aside(job.planned.position, job.planned.request)
        except StorageError as error:
            self.stop(f"the budget's books cannot be used: {error}", error)
            return self._stopped

    def refused(self, job: Job, error: NotCharged) -> None:
        """A request was not charged, and is not under way any more."""
        self._budget.suspend(job.planned.position)
        if isinstance(error, ServerBusy):
            self._refunds = True
        model = job.planned.request.model
        needs_plan = isinstance(error, AccessNotEnabled) and self._prices.needs_plan(model)
        if needs_plan or isinstance(error, ModelNotAllowed):
            with self._lock:
                self._refused_models[model] = str(error)
        elif isinstance(error, HOPELESS):
            self.stop(str(error), error)  # before the next request can leave

    def paid(self, job: Job, generation: Generation) -> None:
        """An answer came; what it cost corrects the price for all that is reserved and waits."""
        told, request = generation.credits_used, job.record.request
        listed = self._prices.listed(request)
        if told is None or listed is None:
            return
        # That a refusal costs less than a picture says nothing about pictures.
        says_something = generation.status == "completed" or told > listed
        if says_something and self._prices.learn(request, told):
            self._logger.warning(
                "%s costs more than the API lists: %s for a request that should cost %s",
                request.model,
                in_credits(told),
                listed,
            )

    @property
    def answered(self) -> Spending:
        """What the prompts that have ended have cost this run."""
        return self._answered

    def _add(self, own: Spending) -> None:
        with self._lock:
            known = self._answered
            self._answered = Spending(known.used + own.used, estimated=known.estimated or own.estimated)

    # Words.

    def write(self, job: Job) -> bool:
        """Write a job's record, patiently; whether that succeeded."""
        try:
            job.planned.ledger.write(job.record)
        except (BucketNotUsable, LedgerError) as error:
            self._unrecorded(job, error)
            return False
        return True

    def show(self, job: Job, percent: int, message: str) -> None:
        """Show how far a generation is."""
        prompt = job.planned.prompt
        self._lines.moved(f"{percent:3d} % of {run_name(prompt.name or prompt.prompt)!r}: {message}")
        self._tracker.moved(prompt.prompt, percent)

    def end(self, job: Job, status: OutcomeStatus, message: str | None) -> Ended:
        """Say the end of a job."""
        confirmed = self._prices.confirmed(job.record.request.model)
        ended = end_of(job, status, message, self.price(job.record.request), price_confirmed=confirmed)
        self._add(job.spent_here(None))
        outcome, record = ended.item.outcome, job.record
        note = f": {message}" if message else f", {counted(len(outcome.images), 'image')}"
        cost = in_credits(outcome.credits_used) + (" paid earlier" if job.reused else "")
        cost += " (an estimate)" if outcome.credits_estimated and outcome.credits_used else ""
        self._lines.ended(status, f"{status}: {run_name(record.prompt.prompt)!r}{note}; {cost}")
        self._tracker.ended(
            record.prompt.prompt,
            status,
            images=len(outcome.images),
            credits=outcome.credits_own if job.reused else outcome.credits_used,
            asked=record.asked_in(job.planned.ledger.asked_by) and not job.reused,
            expected=self._expected.get(job.planned.position, 0),
        )
        if status in ("warning", "failed", "unknown") and (job.copy_errors or job.is_news):
            emit_image_missing(job.planned.ledger.batch, outcome)
        return ended

    def _unrecorded(self, job: Job, error: NanoBananaError) -> None:
        """Say what could not be written, so that a person can still save it."""
        self.stop(str(error), error)
        record = job.record
        urls = record.generation.image_urls if record.generation else ()
        self._logger.error(
            "What became of %r could not be recorded (%s). State: %s, generation: %s, images: %s",
            run_name(record.prompt.prompt),
            error,
            record.state,
            record.generation_id,
            " ".join(url for url in urls if not url.startswith("data:")) or "none",
        )
