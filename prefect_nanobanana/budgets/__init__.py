"""Credits that runs share for a day, a week or a month; kept in S3, so that any machine can join in."""

from prefect_nanobanana.budgets._grants import PROMPTS_AHEAD, Grants, Settle
from prefect_nanobanana.budgets._periods import PeriodKind
from prefect_nanobanana.budgets._terms import BudgetTerms

__all__ = ["PROMPTS_AHEAD", "BudgetTerms", "Grants", "PeriodKind", "Settle"]
