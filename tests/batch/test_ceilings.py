"""What a run, or a part of one, may spend."""

from __future__ import annotations

from decimal import Decimal

from prefect_aws import S3Bucket

from prefect_nanobanana import Generation, ImagePrompt
from prefect_nanobanana.batch._budget import Budget
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._parts import ceilings
from prefect_nanobanana.batch._planned import Action, Planned
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.models import CEILING_REACHED, ImageModel, ImageRequest
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


def test_what_has_no_price_fits_below_no_ceiling() -> None:
    """A model may leave the catalogue while what was asked of it has no end yet."""
    request = ImageRequest(prompt="a")
    assert Budget(100, Prices({})).reserve(1, request) == CEILING_REACHED
    assert Budget(100, Prices({})).confirm(1, request) == CEILING_REACHED
    assert Budget(None, Prices({})).reserve(1, request) is None


def test_without_a_catalogue_a_refusal_may_be_of_its_model_alone() -> None:
    assert Prices({}).needs_plan("nano-banana")
    assert not Prices({"a": ImageModel(name="a")}).needs_plan("a")
    assert Prices({"a": ImageModel(name="a", requires_pro=True)}).needs_plan("a")
