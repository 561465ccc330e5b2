"""What each part of a batch may spend."""

from __future__ import annotations

from decimal import Decimal

from prefect_aws import S3Bucket

from prefect_nanobanana import Generation, ImagePrompt
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._parts import ceilings
from prefect_nanobanana.batch._planned import Action, Planned
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.models import ImageRequest
from prefect_nanobanana.s3 import ObjectStore


def test_a_part_of_a_credit_that_was_spent_is_not_spent_again(bucket: S3Bucket) -> None:
    """1.5 credits went to a part in which nothing is left to do: 8 of 10 are left, and not 9."""
    ledger = Ledger(ObjectStore(bucket), "b", asked_by="me")
    prompt, request = ImagePrompt(prompt="a"), ImageRequest(prompt="a")

    def planned(position: int, action: Action, cost: Decimal | None) -> Planned:
        record = Record(key=f"k{position}", prompt=prompt, request=request)
        if cost is not None:
            record = record.asking(prompt, request, "me", 0).answered(
                Generation(status="warning", credits_used=cost, model="m", mode="sync"), cost
            )
        return Planned(position, record, prompt, request, 1, action, ledger)

    prompts = [planned(1, "reuse", Decimal("1.5")), planned(2, "ask", None)]
    assert ceilings(prompts, {"k1": 1, "k2": 2}, Prices({}), 10) == {2: 8}
