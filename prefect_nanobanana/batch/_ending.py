"""The end of a prompt in a run."""

from __future__ import annotations

from dataclasses import replace

from prefect_nanobanana.batch._job import Job
from prefect_nanobanana.batch._outcomes import Ended, make_outcome
from prefect_nanobanana.batch._progress import progress_of
from prefect_nanobanana.models import Credits, OutcomeStatus


def end_of(
    job: Job,
    status: OutcomeStatus,
    message: str | None,
    price: Credits | None,
    *,
    price_confirmed: bool,
) -> Ended:
    """Make the end of a job.

    Args:
        job: The job.
        status: How it ended.
        message: Why.
        price: What its last request costs, in credits, by all that is known.
        price_confirmed: Whether an answer has told so.
    """
    record, spending = job.record, job.spending(price)
    if status == "unknown" and not price_confirmed and not record.credits_used:
        spending = replace(spending, estimated=True)  # the catalogue's price, which may be another
    item = make_outcome(
        job.planned.position,
        record,
        status,
        message,
        reused=job.reused,
        by_other_run=job.by_other_run,
        spending=spending,
        before=job.own_charges,
    )
    return Ended(
        job.planned.ledger.batch,
        record.key,
        record.state,
        progress_of(record),
        len(record.images) - len(job.planned.record.images),
        record.credits_used,
        item,
    )
