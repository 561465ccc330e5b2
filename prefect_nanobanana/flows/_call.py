"""What a flow that works on a batch was called with."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect_nanobanana._common.runs_above import RunAbove
from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.flows._batch_name import asker, default_batch_name
from prefect_nanobanana.flows._caller import caller_of
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import AskAgain, ImagePrompt, PromptTemplate
from prefect_nanobanana.s3 import ObjectStore

Logger = logging.Logger | logging.LoggerAdapter[Any]


@dataclass(frozen=True)
class Call:
    """What a flow was called with, as far as its work depends on it.

    Attributes:
        prompts: As they were given.
        prompts_from: As it was given.
        generator: How images are made.
        store: Where they go.
        ask_again: What earlier runs have asked and this one asks again.
        max_credits: The most that the call may spend, in credits; None for no bound.
        logger: The flow run's.
        approve_above: A person must approve what costs more, in credits; None for no bound.
        budget: What the call shares with others; None without one.
        fallback_models: The models that are asked, in this order, if others refuse.
        local_files: Whether references may be files on this machine.
        template: What makes prompts of texts with variables; None if they are prompts themselves.
    """

    prompts: Sequence[str | ImagePrompt]
    prompts_from: str | None
    generator: NanoBananaGenerator
    store: ObjectStore
    ask_again: frozenset[AskAgain]
    max_credits: int | None
    logger: Logger
    approve_above: int | None = None
    budget: NanoBananaBudget | None = None
    template: PromptTemplate | None = None
    fallback_models: tuple[str, ...] = ()
    local_files: bool = True

    @property
    def bound(self) -> str | None:
        """The parameter that bounds what is spent, so that prices must be known; None if none does."""
        bounds = {
            "max_credits": self.max_credits,
            "approve_above": self.approve_above,
            "budget": self.budget,
        }
        return next((name for name, value in bounds.items() if value is not None), None)

    def ledger(self, runs: Sequence[RunAbove], batch: str | None, *, dry: bool = False) -> Ledger:
        """Open the ledger of the batch, which may have to be given a name.

        Args:
            runs: The runs that the call is made in.
            batch: The batch's name; a new one if there is none.
            dry: Whether the call only looks: the next one like it is then the first of its kind.
        """
        folder = self.store.uri(self.store.key())
        name = (batch or "").strip() or default_batch_name(
            runs,
            self.prompts,
            self.prompts_from,
            self.generator,
            folder,
            template=self.template,
            has_records=lambda name: Ledger(self.store, name).exists(),
            dry=dry,
        )
        caller = None if dry else caller_of(self.generator.credentials)
        asked_by = asker(runs, folder, name, self.ask_again, dry=dry)
        return Ledger.open(self.store, name, asked_by, caller)
