"""The work of one call on its batch: from the list of prompts to the report that is published."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Self

from prefect_nanobanana._common.runs_above import runs_above
from prefect_nanobanana.batch import Ledger, Runner, gather_prompts, make_plan, recorded_outcomes
from prefect_nanobanana.flows._account import Account
from prefect_nanobanana.flows._batch_name import is_retried
from prefect_nanobanana.flows._call import Call
from prefect_nanobanana.images import Copier, Fetcher
from prefect_nanobanana.models import Credits, Part, Plan, RunReport
from prefect_nanobanana.report import Publisher

_TRIES = 3
"""A prompt that the safety check refuses says nothing of a price: the next one is asked for."""


class Work:
    """What a call has to do, and does. All of it is checked at once, before anything is spent.

    Args:
        call: What the flow was called with.
        ledger: The batch's.
        retried: Whether Prefect may have retried the call, with another list.
        part: Which part of the list it is about; all of it by default.
        dry: Whether nothing is to follow: nothing is written into the bucket then.

    Raises:
        InvalidInput: If a prompt, file or parameter is wrong.
        ApiError: If the account cannot be used.
        StorageError: If the bucket cannot be used.
        LedgerError: If a record cannot be read.
    """

    def __init__(
        self,
        call: Call,
        ledger: Ledger,
        *,
        retried: bool = False,
        part: Part | None = None,
        dry: bool = False,
    ) -> None:
        self._call = call
        self._ledger = ledger
        with Fetcher(call.generator.credentials.trusted_hosts, connections=1) as fetcher:
            listed = gather_prompts(
                call.prompts, call.prompts_from, call.store.uris.read, fetcher, call.template
            )
        credentials, priced = call.generator.credentials, call.bound is not None
        self._account = Account(credentials, call.logger, dry=dry, priced=priced)
        self._make_plan = partial(
            make_plan,
            listed,
            call.generator,
            self._account.models,
            ledger,
            max_credits=call.max_credits,
            bound=call.bound,
            ask_again=call.ask_again,
            fallback_models=call.fallback_models,
            local_files=call.local_files,
            logger=call.logger,
            retried=retried,
            part=part,
            dry=dry,
        )
        self._plan = self._make_plan()
        self._publisher = Publisher(call.store, ledger.batch, call.logger)
        if not dry:
            preview = self.preview()  # which holds each prompt: it is not kept
            self._publisher.say_plan(preview, part)
            if part is None:
                self._publisher.show_plan_beside(preview)

    @classmethod
    def of_flow_run(cls, call: Call, batch: str | None, *, dry: bool = False) -> Self:
        """The work of the flow run that this is called in, whose batch may have to be given a name."""
        runs = runs_above()
        return cls(call, call.ledger(runs, batch, dry=dry), retried=is_retried(runs), dry=dry)

    @property
    def spent(self) -> Credits:
        """What earlier attempts of this call have spent, in credits."""
        return self._plan.spent_as_known

    def preview(self) -> Plan:
        """What is to be done, and what that costs."""
        plan, budget = self._plan.preview(self._ledger.batch, self._account.before), self._call.budget
        if budget is not None:
            plan = plan.model_copy(update={"budget_left": budget.left()})
        return plan

    def plan(self) -> Plan:
        """Say and show what is to be done, and what that costs; of a call that only plans."""
        preview, bound = self.preview(), self._call.approve_above
        if bound is not None and (preview.worst_price is None or preview.worst_price > bound):
            needs = f"it needs a person's approval, as it costs more than {bound} (approve_above)"
            preview = preview.model_copy(update={"warnings": (*preview.warnings, needs)})
        self._publisher.say_plan(preview)
        self._publisher.show_plan(preview)
        return preview

    def planned(self) -> RunReport:
        """Spend nothing, and say what each prompt is now; what would be asked for is skipped.

        Returns:
            The report, without addresses, as nothing is published but the plan.
        """
        report = self._publisher.report(
            self._plan.outcomes(),
            balance_before=self._account.before,
            balance_after=self._account.before,
        )
        return report.model_copy(update={"manifest_uri": None, "gallery_uri": None})

    def finish(self) -> RunReport:
        """Ask for what is missing, copy what is there, and publish what became of it.

        Returns:
            The report, as it was published.
        """
        return self._finish(self._account.before)

    def finish_in_parts(self, count: int, run: Callable[[list[Part], list[str]], object]) -> RunReport:
        """The same, after several processes have done what they could.

        Args:
            count: How many parts there are.
            run: Has parts run until they have ended, however they end; is given the fallback models
                that they may ask.

        Returns:
            The report, as it was published; what the parts paid counts as paid by this run.
        """
        known = self._plan.attempts
        if self._learn_prices():
            fallbacks = self._plan.fallbacks_for_parts(self._call.fallback_models)
            run(self._plan.parts(count), fallbacks)
        else:
            self._call.logger.warning(
                "No answer told what images cost, so no part runs: max_credits holds"
            )
        self._plan = self._make_plan().after(known)
        # The balance proves nothing: what the API gave back to a part is known to nobody else.
        return self._finish(None)

    def finish_part(self) -> RunReport:
        """Ask for what is missing in one part, and copy what is there; the call itself publishes it.

        Returns:
            What this run did, without addresses, as it has published nothing.
        """
        self._account.prepare(self._plan.to_ask)
        with self._runner(self._plan.images, None) as runner:
            ended = runner.run(self._plan)
        items = [
            replace(each.item, outcome=each.item.outcome.model_copy(update={"position": place}))
            for place, each in enumerate(ended, 1)
        ]
        report = self._publisher.report(items)
        return report.model_copy(update={"manifest_uri": None, "gallery_uri": None})

    def _learn_prices(self) -> bool:
        """Ask for a prompt of each model whose price is not known for sure, if there is a ceiling.

        Returns:
            Whether the prices are known, so that several processes can keep below a ceiling.
        """
        for _ in range(_TRIES):
            first = self._plan.first_of_unconfirmed()
            if first is None:
                return True
            self._account.prepare(first.to_ask)
            with self._runner(first.images, self._account.before) as runner:
                runner.run(first)
            self._plan = self._make_plan()
        return self._plan.first_of_unconfirmed() is None

    def _finish(self, balance: Credits | None) -> RunReport:
        plan, call = self._plan, self._call
        self._account.prepare(plan.to_ask)
        with self._runner(plan.images, balance, shown=True) as runner:
            ended = runner.run(plan)
        items = [each.item for each in ended]
        report = self._publisher.report(
            items,
            prompts=len(plan.prompts),
            balance_before=self._account.before,
            balance_after=self._account.balance(),
        )
        recorded = recorded_outcomes(self._ledger, call.logger, without=ended)
        self._ledger.index.save()
        credentials = call.generator.credentials
        charges = None
        if recorded is not None:
            items, charges = items + recorded.items, recorded.charges
        return self._publisher.publish(
            report,
            items,
            credentials,
            charges,
            call.budget,
            caller=self._ledger.caller,
            source=call.prompts_from,
        )

    @contextmanager
    def _runner(self, images: int, balance: Credits | None, *, shown: bool = False) -> Iterator[Runner]:
        call = self._call
        hosts = call.generator.credentials.trusted_hosts
        with ExitStack() as stack:
            copier = stack.enter_context(Copier.for_bucket(call.store, hosts, expected_images=images))
            live = stack.enter_context(self._publisher.live()) if shown else None
            grants = call.budget.grants if call.budget is not None else None
            yield Runner(
                call.generator, copier, call.logger, balance=balance, watcher=live, grants=grants
            )
