"""What a run would do, and what that would cost, before anything is spent."""

from __future__ import annotations

from typing import Literal

from prefect_nanobanana.models.base import Credits, Frozen
from prefect_nanobanana.models.prompts import ImagePrompt

PlannedStep = Literal["new", "again", "resumed", "reused"]


class PlannedPrompt(Frozen):
    """What a run would do with one prompt.

    Attributes:
        position: Its place in the list, from 1.
        place: Where it stands, as `cats.csv, line 3`.
        prompt: The prompt; its text is `.prompt`.
        step: `new` (asked for, and paid), `again` (asked for, and paid, once more, as `ask_again` says),
            `resumed` (asked for by an earlier run: its answer or its images are fetched, at no cost), or
            `reused` (nothing is left to do).
        model: Which model makes it.
        quantity: How many images are asked for.
        aspect_ratio: As `16:9`.
        references: How many images it starts from.
        price: What asking for it costs in credits, by the catalogue and by what answers have told; 0 if
            it is not asked for; None if the catalogue does not say.
        fallbacks: The models that are asked after that one, in this order, each if the one before it is
            refused.
        fallback_price: What it costs besides if all of them are asked, and paid; None if the catalogue
            does not say.
    """

    position: int
    place: str
    prompt: ImagePrompt
    step: PlannedStep
    model: str
    quantity: int
    aspect_ratio: str
    references: int
    price: Credits | None
    fallbacks: tuple[str, ...] = ()
    fallback_price: Credits | None = 0

    @property
    def worst_price(self) -> Credits | None:
        """What it costs in credits if all models are asked, and paid; None if that is not known."""
        return sum_credits([self.price, self.fallback_price])

    @property
    def asked(self) -> bool:
        """Whether the API is asked for it."""
        return self.step in ("new", "again")


class ModelTotal(Frozen):
    """What is asked of one model.

    Attributes:
        model: Its name.
        prompts: How many prompts it is asked for.
        images: How many images.
        price: What they cost in credits; None if the catalogue does not say.
    """

    model: str
    prompts: int
    images: int
    price: Credits | None


class Plan(Frozen):
    """What a run would do, and what that would cost. Making it costs nothing.

    Attributes:
        batch: The name of the piece of work.
        prompts: One per prompt, in the order of the list.
        balance: The account's credits now.
        max_credits: The most that the run may still spend, in credits; None for no bound.
        budget_left: What is left of the budget that the run shares, in credits; None without one.
        warnings: What may not work, or may cost more: one line for all prompts that it is true of.
    """

    batch: str
    prompts: tuple[PlannedPrompt, ...]
    balance: Credits
    max_credits: Credits | None = None
    budget_left: Credits | None = None
    warnings: tuple[str, ...] = ()

    def count(self, step: PlannedStep) -> int:
        """With how many prompts this would be done."""
        return sum(planned.step == step for planned in self.prompts)

    @property
    def images(self) -> int:
        """How many images would be asked for."""
        return sum(planned.quantity for planned in self.prompts if planned.asked)

    @property
    def price(self) -> Credits | None:
        """What all of it costs in credits, as far as is known; None if some price is not known."""
        return sum_credits([planned.price for planned in self.prompts if planned.asked])

    @property
    def worst_price(self) -> Credits | None:
        """The same if all fallback models are asked, and paid, for each prompt."""
        return sum_credits([planned.worst_price for planned in self.prompts])

    @property
    def balance_after(self) -> Credits | None:
        """What the account would have left, in credits; None if the price is not known."""
        price = self.price
        return None if price is None else self.balance - price

    @property
    def by_model(self) -> tuple[ModelTotal, ...]:
        """What is asked of each model, by name."""
        found: dict[str, list[PlannedPrompt]] = {}
        for planned in self.prompts:
            if planned.asked:
                found.setdefault(planned.model, []).append(planned)
        return tuple(
            ModelTotal(
                model=model,
                prompts=len(its),
                images=sum(planned.quantity for planned in its),
                price=sum_credits([planned.price for planned in its]),
            )
            for model, its in sorted(found.items())
        )


def sum_credits(prices: list[Credits | None]) -> Credits | None:
    """What prices come to, in credits; None if one of them is not known."""
    known = [price for price in prices if price is not None]
    return sum(known) if len(known) == len(prices) else None
