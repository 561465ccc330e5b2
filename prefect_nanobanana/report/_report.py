"""Outcomes -> report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from prefect_nanobanana.errors import BooksDoNotBalance
from prefect_nanobanana.models import Credits, RunReport, exact_credits
from prefect_nanobanana.report._item import GalleryItem


def build_report(
    batch: str,
    prompts: int,
    items: Sequence[GalleryItem],
    *,
    balance_before: Credits | None,
    balance_after: Credits | None,
    manifest_uri: str | None,
    gallery_uri: str | None,
) -> RunReport:
    """Add up what a run did.

    Args:
        batch: The batch's name.
        prompts: How many prompts there were.
        items: One per prompt.
        balance_before: The account's credits before the run, if known.
        balance_after: The account's credits after the run, if known.
        manifest_uri: Where the manifest is.
        gallery_uri: Where the gallery is.

    Returns:
        The report.

    Raises:
        BooksDoNotBalance: If the outcomes are not one per prompt, in the order of the list.
    """
    outcomes = [item.outcome for item in items]
    if [o.position for o in outcomes] != list(range(1, prompts + 1)):
        raise BooksDoNotBalance(
            f"{prompts} prompts, but {len(outcomes)} outcomes at {[o.position for o in outcomes][:50]}: "
            "this is a bug of prefect-nanobanana; the records in S3 hold what was paid"
        )
    counts = Counter(o.status for o in outcomes)
    paid = [o for o in outcomes if not o.reused]
    without_image = sum((i.without_image for i in items), Fraction(0))
    seen = [
        o.generation.remaining_credits
        for o in paid
        if o.generation is not None and o.generation.remaining_credits is not None
    ]
    return RunReport(
        batch=batch,
        prompts=prompts,
        stored=counts["stored"],
        warnings=counts["warning"],
        failed=counts["failed"],
        unknown=counts["unknown"],
        skipped=counts["skipped"],
        images=sum(len(o.images) for o in outcomes),
        credits_used=sum(o.credits_own if o.reused else o.credits_used for o in outcomes),
        credits_reused=sum(o.credits_used - o.credits_own for o in outcomes if o.reused),
        credits_without_image=exact_credits(float(without_image)) or 0,
        remaining_credits=balance_after if balance_after is not None else min(seen, default=None),
        balance_before=balance_before,
        balance_after=balance_after,
        manifest_uri=manifest_uri,
        gallery_uri=gallery_uri,
        outcomes=tuple(outcomes),
    )
