"""One batch of prompts: what is asked, paid and stored."""

from prefect_nanobanana.batch._budget import Budget
from prefect_nanobanana.batch._job import Again, Job, make_outcome, outcome_of_record
from prefect_nanobanana.batch._keys import check_batch, existing_batch
from prefect_nanobanana.batch._ledger import (
    Claimed,
    Ledger,
    Record,
    batches_with_records,
)
from prefect_nanobanana.batch._plan import plan
from prefect_nanobanana.batch._prompts import Listed, gather_prompts
from prefect_nanobanana.batch._runner import CEILING_REACHED, URL_LIFETIME_DAYS, Run
from prefect_nanobanana.batch._settling import SETTLE_AFTER_SECONDS

__all__ = [
    "CEILING_REACHED",
    "SETTLE_AFTER_SECONDS",
    "URL_LIFETIME_DAYS",
    "Again",
    "Budget",
    "Claimed",
    "Job",
    "Ledger",
    "Listed",
    "Record",
    "Run",
    "batches_with_records",
    "check_batch",
    "existing_batch",
    "gather_prompts",
    "make_outcome",
    "outcome_of_record",
    "plan",
]
