"""One batch of prompts: what is asked, paid and stored."""

from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._outcomes import recorded_outcomes
from prefect_nanobanana.batch._pending import plan_pending
from prefect_nanobanana.batch._plan import make_plan
from prefect_nanobanana.batch._prompts import gather_prompts
from prefect_nanobanana.batch._runner import Runner

__all__ = [
    "Ledger",
    "Runner",
    "gather_prompts",
    "make_plan",
    "plan_pending",
    "recorded_outcomes",
]
