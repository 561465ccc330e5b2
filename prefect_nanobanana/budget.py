"""The block that says what runs may spend together in a day, a week or a month.

Imported only by flows and by whoever names it, as it imports prefect-aws. Prefect learns of it with
`prefect block register -m prefect_nanobanana.budget`.
"""

from __future__ import annotations

from typing import Any, Self
from zoneinfo import ZoneInfo

from prefect.blocks.core import Block
from prefect_aws import S3Bucket
from pydantic import ConfigDict, Field, ValidationError, field_validator

from prefect_nanobanana._common.text import in_credits, number
from prefect_nanobanana._common.zones import find_zone
from prefect_nanobanana.budgets import BudgetTerms, Grants, PeriodKind, Settle
from prefect_nanobanana.credentials import DOCUMENTATION_URL, LOGO_URL
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.models import Credits, describe_errors
from prefect_nanobanana.s3 import ObjectStore

__all__ = ["NanoBananaBudget"]


class NanoBananaBudget(Block):
    """Says what all runs that name it may spend together in a day, a week or a month.

    Attributes:
        credits: The most that they may spend in one period, in credits.
        period: How long a period is: `day`, `week` (from Monday) or `month`.
        time_zone: Whose midnight begins it, as `Europe/Berlin`.
        bucket: Where its books are; any S3 store will do.
        name: Budgets of one name in one bucket are the same.

    Example:
        Have flows share 500 credits a month:
        ```python
        from prefect_aws import S3Bucket

        from prefect_nanobanana.budget import NanoBananaBudget

        bucket = S3Bucket.load("BUCKET")
        NanoBananaBudget(credits=500, period="month", bucket=bucket).save("pictures")
        ```
    """

    _block_type_name = "Nano Banana Budget"
    _block_type_slug = "nano-banana-budget"
    _logo_url = LOGO_URL  # type: ignore[assignment]  # Prefect checks and converts it
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]
    _description = "Says what runs may spend together in a day, a week or a month."

    model_config = ConfigDict(hide_input_in_errors=True)

    credits: int = Field(ge=0, title="Credits", description="The most that is spent in one period.")
    period: PeriodKind = Field(
        default="month", title="Period", description="A day, a week (from Monday), or a month."
    )
    time_zone: str = Field(
        default="Etc/UTC",
        title="Time zone",
        description="Whose midnight begins a period, as Europe/Berlin.",
    )
    bucket: S3Bucket = Field(
        title="Bucket", description="Where the budget's books are kept: any S3 store will do."
    )
    name: str = Field(
        default="default",
        min_length=1,
        title="Name of the books",
        description="Budgets of one name in one bucket are the same.",
    )

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        zone = find_zone(value)
        if zone is None:
            raise ValueError("is not a time zone: use a name as Europe/Berlin or Etc/UTC")
        return zone.key

    @classmethod
    def from_text(cls, text: str, bucket: S3Bucket, **settings: Any) -> Self:
        """Make a budget of what people write on a command line.

        Args:
            text: As `500/month`.
            bucket: Where its books are.
            **settings: Other fields.

        Raises:
            InvalidInput: If that is no budget.
        """
        credits, _, period = text.partition("/")
        try:
            given = {"credits": credits, "period": period or "month", "bucket": bucket, **settings}
            return cls.model_validate(given)
        except ValidationError as error:
            problems = "; ".join(describe_errors(error))
            raise InvalidInput(f"budget: {text!r}: {problems}: write it as 500/month") from None

    @property
    def terms(self) -> BudgetTerms:
        """What it allows."""
        return BudgetTerms(self.name, self.credits, self.period, ZoneInfo(self.time_zone))

    def left(self) -> Credits:
        """What nobody has spent or set aside in this period, in credits.

        Raises:
            StorageError: If the books cannot be read.
        """
        return max(0, self.grants("").room())

    def summary(self) -> str:
        """Say what is left, as `'pictures' has 20 of 500 credits left this month`.

        Raises:
            StorageError: If the books cannot be read.
        """
        left, all_of_it = number(self.left()), in_credits(self.credits)
        return f"{self.name!r} has {left} of {all_of_it} left this {self.period}"

    def grants(self, batch: str, settle: Settle = lambda _batch, _process: None) -> Grants:
        """What one process may spend of it.

        Args:
            batch: The address of the batch that the process works on.
            settle: Says what another process has spent; by default nobody can say.
        """
        return Grants(ObjectStore(self.bucket), self.terms, batch, settle)
