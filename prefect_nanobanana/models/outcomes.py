"""What became of the prompts of a run, and what that cost."""

from __future__ import annotations

from typing import Literal, get_args

from prefect_nanobanana.models.base import Credits, Frozen
from prefect_nanobanana.models.charges import ChargeStatus
from prefect_nanobanana.models.generations import Generation, StoredImage
from prefect_nanobanana.models.prompts import ImagePrompt

OutcomeStatus = Literal["stored", "warning", "failed", "unknown", "skipped"]
AskAgain = Literal["warnings", "failed", "unknown"]
CEILING_REACHED = "max_credits is reached"
"""The message of prompts that were skipped as a run may spend no more."""

BUDGET_SPENT = "the budget does not suffice"
"""What the message begins with of prompts that were skipped for the sake of a shared budget."""


class Try(Frozen):
    """One of several requests for a prompt.

    Attributes:
        model: Which model was asked.
        status: What became of it.
        credits_used: What it cost, in credits.
        credits_at_risk: What it may have cost besides.
        images: How many images it yielded that are in S3.
    """

    model: str
    status: ChargeStatus
    credits_used: Credits
    credits_at_risk: Credits = 0
    images: int = 0


class Outcome(Frozen):
    """What became of one prompt of a run.

    Attributes:
        position: Its place in the list, from 1.
        prompt: The prompt; its text is `.prompt`.
        status: `stored` (all its images are in S3), `warning` (paid, refused by the safety check),
            `failed`, `unknown` (asked, maybe paid, no answer), `skipped` (never asked).
        generation: What the API made of it, if it was asked and answered.
        images: Its images in S3.
        credits_used: What it cost in credits, by this run or, if `reused`, by an earlier one.
        credits_at_risk: What may have been paid besides: the price of each request without an answer.
        credits_estimated: Whether `credits_used`, or `credits_at_risk` of what is unknown, is an
            estimate, as the API did not say.
        reused: Whether it was another run of the batch that asked for it.
        by_other_run: Whether that run was at work at the same time.
        credits_own: Of `credits_used`, what this run has paid before the other one asked.
        message: Why, for everything but `stored`.
        tries: All requests for it, where there were several: as it was asked again, or of other models.
    """

    position: int
    prompt: ImagePrompt
    status: OutcomeStatus
    generation: Generation | None = None
    images: tuple[StoredImage, ...] = ()
    credits_used: Credits = 0
    credits_at_risk: Credits = 0
    credits_estimated: bool = False
    reused: bool = False
    by_other_run: bool = False
    credits_own: Credits = 0
    message: str | None = None
    tries: tuple[Try, ...] = ()

    @property
    def held_back(self) -> bool:
        """Whether a bound on what may be spent kept it from being asked; nothing went wrong then."""
        message = self.message or ""
        bound = message == CEILING_REACHED or message.startswith(BUDGET_SPENT)
        return self.status == "skipped" and bound


class RunReport(Frozen):
    """What a run did, and what it cost in credits.

    Attributes:
        batch: The name of the piece of work.
        prompts: How many prompts there were; the five counts that follow add up to it.
        stored: Prompts whose images are all in S3.
        warnings: Prompts that the safety check refused; paid.
        failed: Prompts that failed, or whose images could not be copied.
        unknown: Prompts that were asked and maybe paid, without an answer.
        skipped: Prompts that were never asked.
        images: Images in S3.
        credits_used: Paid by this run, warnings and failed generations included.
        credits_reused: Paid by earlier runs of the batch for what this one reused.
        credits_without_image: The part of `credits_used` that no stored image came of.
        remaining_credits: What the account has left, as last seen.
        balance_before: The account's credits before the run; None if it could not be read.
        balance_after: The account's credits after the run; None if it could not be read.
        manifest_uri: `s3://` address of `manifest.jsonl`.
        gallery_uri: `s3://` address of `index.html`.
        outcomes: One per prompt, in the order of the list.
        unpublished: What of the run could not be published, as `index.html`; the log says why.
    """

    batch: str
    prompts: int
    stored: int
    warnings: int
    failed: int
    unknown: int
    skipped: int
    images: int
    credits_used: Credits
    credits_reused: Credits
    credits_without_image: Credits
    remaining_credits: Credits | None
    balance_before: Credits | None
    balance_after: Credits | None
    manifest_uri: str | None
    gallery_uri: str | None
    outcomes: tuple[Outcome, ...]
    unpublished: tuple[str, ...] = ()

    @property
    def credits_unexplained(self) -> Credits | None:
        """Credits that the account lost and this run does not account for; None if not known."""
        if self.balance_before is None or self.balance_after is None:
            return None
        return self.balance_before - self.balance_after - self.credits_used

    @property
    def credits_at_risk(self) -> Credits:
        """What this run may have paid besides `credits_used`, at worst: requests without an answer."""
        return sum(o.credits_at_risk for o in self.outcomes if not o.reused)

    @property
    def credits_of_others(self) -> Credits | None:
        """Credits that somebody else spent from the account meanwhile, at least; None if not known.

        While a cost is an estimate, what the account lost besides may be of that, and is nobody else's.
        Nor is what another run of the batch paid at the same time.
        """
        gap, meanwhile = self.credits_unexplained, [o for o in self.outcomes if self._is_new(o)]
        if gap is None or any(o.credits_estimated for o in meanwhile):
            return None
        return max(0, gap - self.credits_at_risk - self.credits_of_other_runs)

    @property
    def credits_of_other_runs(self) -> Credits:
        """What other runs of the batch paid at the same time for prompts of this one, at most."""
        theirs = [o for o in self.outcomes if o.by_other_run]
        return sum(o.credits_used - o.credits_own + o.credits_at_risk for o in theirs)

    @staticmethod
    def _is_new(outcome: Outcome) -> bool:
        """Whether it may have been paid since the run began."""
        return not outcome.reused or outcome.by_other_run

    @property
    def prompts_estimated(self) -> int:
        """Prompts of which the API did not say what they cost this run; without those at risk."""
        mine = [o for o in self.outcomes if not o.reused and o.credits_estimated]
        return sum(1 for o in mine if o.credits_used or o.status != "unknown")

    @property
    def credits_by_status(self) -> dict[str, Credits]:
        """What was paid, split by outcome: `reused` by earlier runs, the rest by this one."""
        split: dict[str, Credits] = dict.fromkeys((*get_args(OutcomeStatus), "reused"), 0)
        for outcome in self.outcomes:
            own = outcome.credits_own if outcome.reused else outcome.credits_used
            split[outcome.status] += own
            split["reused"] += outcome.credits_used - own
        return split


class PendingReport(Frozen):
    """What `copy_pending` found, and what became of it.

    Attributes:
        batches: The batches in which images were owed.
        generations: Paid generations whose images were not all in S3.
        images: Images that were copied now.
        waiting: Generations that still owe images; the next run tries them again.
        lost: Generations whose images are gone: their URLs died before they were copied.
        credits_lost: What the lost ones had cost, in credits.
        messages: One line per generation that lost its images or still owes them, for the first 1,000.
    """

    batches: tuple[str, ...]
    generations: int
    images: int
    waiting: int
    lost: int
    credits_lost: Credits
    messages: tuple[str, ...] = ()
