"""One call of a flow that works on a batch: from the list of prompts to the report that is published."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect_nanobanana._common.runs_above import RunAbove, runs_above
from prefect_nanobanana._common.task_runners import runs_elsewhere
from prefect_nanobanana.batch import Ledger, Runner, gather_prompts, make_plan, recorded_outcomes
from prefect_nanobanana.flows._account import Account
from prefect_nanobanana.flows._batch_name import asker, default_batch_name, is_retried
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copier, Fetcher
from prefect_nanobanana.models import AskAgain, ImagePrompt, RunReport
from prefect_nanobanana.report import Publisher
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
    """

    prompts: Sequence[str | ImagePrompt]
    prompts_from: str | None
    generator: NanoBananaGenerator
    store: ObjectStore
    ask_again: frozenset[AskAgain]
    max_credits: int | None
    logger: Logger

    def ledger(self, runs: Sequence[RunAbove], batch: str | None) -> Ledger:
        """Open the ledger of the batch, which may have to be given a name.

        Args:
            runs: The runs that the call is made in.
            batch: The batch's name; a new one if there is none.
        """
        folder = self.store.uri(self.store.key())
        name = (batch or "").strip() or default_batch_name(
            runs,
            self.prompts,
            self.prompts_from,
            self.generator,
            folder,
            has_records=lambda name: Ledger(self.store, name).exists(),
        )
        return Ledger.open(self.store, name, asker(runs, folder, name, self.ask_again))

    def run(self, batch: str | None) -> RunReport:
        """Ask for what is missing, copy what is there, and publish what became of it.

        Args:
            batch: The batch's name; a new one if there is none.

        Returns:
            The report, as it was published.
        """
        runs = runs_above()
        ledger = self.ledger(runs, batch)
        with Fetcher(self.generator.credentials.trusted_hosts, connections=1) as fetcher:
            listed = gather_prompts(self.prompts, self.prompts_from, self.store.read_uri, fetcher)
        account = Account(self.generator.credentials, self.logger)
        plan = make_plan(
            listed,
            self.generator,
            account.models,
            ledger,
            max_credits=self.max_credits,
            ask_again=self.ask_again,
            logger=self.logger,
            retried=is_retried(runs),
        )
        account.prepare(0 if runs_elsewhere() else plan.to_ask)
        self.logger.info(
            "Batch %r: %d prompts, %d to ask for; the account has %s credits",
            ledger.batch,
            len(listed),
            plan.to_ask,
            account.before,
        )
        publisher = Publisher(self.store, ledger.batch, self.logger)
        hosts = self.generator.credentials.trusted_hosts
        with (
            Copier.for_bucket(self.store, hosts, expected_images=plan.images) as copier,
            publisher.live() as live,
        ):
            runner = Runner(self.generator, copier, self.logger, balance=account.before, watcher=live)
            ended = runner.run(plan)
        items = [each.item for each in ended]
        report = publisher.report(
            items,
            prompts=len(listed),
            balance_before=account.before,
            balance_after=account.balance(),
        )
        ledger.index.save()
        earlier = recorded_outcomes(ledger, self.logger, without=ended)
        return publisher.publish(report, items + earlier, self.generator.credentials)
