"""What people have decided on a batch's images."""

from __future__ import annotations

from prefect_nanobanana.models.base import Credits, Frozen


class ReviewReport(Frozen):
    """What a review came to.

    Attributes:
        batch: The batch's name.
        images: How many images it has in S3.
        kept: How many of them are kept, by this review and those before.
        rejected: How many are rejected.
        undecided: How many nobody has decided on.
        decided_now: How many this review has decided on.
        picks_uri: `s3://` address of `picks.jsonl`; None if nothing was ever decided.
        variants: How many prompts were asked for anew, as all their images were rejected.
        credits_used: What that has cost, in credits.
    """

    batch: str
    images: int
    kept: int
    rejected: int
    undecided: int
    decided_now: int = 0
    picks_uri: str | None = None
    variants: int = 0
    credits_used: Credits = 0
