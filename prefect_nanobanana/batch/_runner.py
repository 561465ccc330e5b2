"""One run of the main job: asks for what is missing, copies what is there, keeps the ledger.

    plan -> ask, in as many threads as the account has slots
         -> or ask for the end of what an earlier run has begun
         -> or wait for what another run of the batch is asking for at this moment
         -> copy, in threads of its own, as soon as an image exists
         -> settle what has no answer, and ask again what was proven not to be charged

Every prompt ends as exactly one `Outcome`. What goes wrong with one does not concern the others,
unless nothing more can be paid for or stored: then the rest is skipped, and said why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from uuid import uuid4

from prefect_nanobanana.batch._control import Logger, RunControl
from prefect_nanobanana.batch._index import THUMBNAIL_BYTES
from prefect_nanobanana.batch._job import Job
from prefect_nanobanana.batch._outcomes import Ended, PreviewRoom, outcome_of_record
from prefect_nanobanana.batch._plan import BatchPlan
from prefect_nanobanana.batch._settling import BalanceProof
from prefect_nanobanana.batch._shared import SpentByRecords
from prefect_nanobanana.batch._stages import Stages
from prefect_nanobanana.batch._stopped import SLOTS_BACK_SECONDS, flush, grace_seconds, what_is_left
from prefect_nanobanana.batch._timing import TIMING, Timing
from prefect_nanobanana.budgets import Grants, Settle
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copier
from prefect_nanobanana.models import Credits
from prefect_nanobanana.progress import Watcher

ROUNDS = 3
"""How often one run asks for the same prompt at most, if each time was proven to cost nothing."""


class Runner:
    """Brings every prompt of a plan to its end.

    Args:
        generator: How images are made.
        copier: Copies them.
        logger: Gets one line per prompt.
        balance: The account's credits before the run, if known.
        watcher: Is told how far the run is.
        timing: How long it waits.
        grants: Opens a budget that the run shares with others, given the batch's address; None without.

    Raises:
        InvalidInput: If the environment's grace period is not a number of seconds.
    """

    def __init__(
        self,
        generator: NanoBananaGenerator,
        copier: Copier,
        logger: Logger,
        *,
        balance: Credits | None = None,
        watcher: Watcher | None = None,
        timing: Timing | None = None,
        grants: Callable[[str, Settle], Grants] | None = None,
    ) -> None:
        self._generator = generator
        self._copier = copier
        self._logger = logger
        self._balance = balance
        self._watcher = watcher
        self._timing = timing or TIMING.get()
        self._open_grants = grants
        self._grace = grace_seconds()

    def run(self, plan: BatchPlan) -> list[Ended]:
        """Bring every prompt to its end.

        Returns:
            The ends, in the order of the list.
        """
        grants = self._grants(plan)
        control = RunControl(plan, self._logger, self._watcher, grants)
        proof = BalanceProof(
            self._generator.credentials, self._balance, self._timing.settle_after, self._logger
        )
        jobs = {p.position: Job(p, control, _ticket(grants)) for p in plan.prompts}
        ended: dict[int, Ended] = {}
        previews = PreviewRoom(THUMBNAIL_BYTES)

        def note(end: Ended) -> None:
            position = end.item.outcome.position
            ended[position] = previews.kept(end)
            del jobs[position]  # what has ended leaves memory

        stages = Stages(len(jobs), self._generator, self._copier, control, self._timing, self._grace)
        with closing(control), self._telling_what_is_left(jobs, ended), stages:
            work = ((job, job.planned.action) for job in list(jobs.values()))
            lost = stages.pass_through(work, note)
            for _ in range(ROUNDS - 1):
                free = []
                if not control.stopped:
                    free = proof.not_charged(control.answered, lost, control.refunds)
                for job in free:
                    control.settle(job)
                lost = [job for job in lost if job not in free]
                lost += stages.pass_through(((job, "ask") for job in free), note)
            for job in lost:
                status, message = outcome_of_record(job.record, control.price(job.record.request))
                note(control.end(job, status, message))
        return [ended[position] for position in sorted(ended)]

    def _grants(self, plan: BatchPlan) -> Grants | None:
        """What the run may spend of a shared budget."""
        if self._open_grants is None or not plan.prompts:
            return None
        ledger = plan.prompts[0].ledger
        spent = SpentByRecords(ledger.store, plan.prices)
        return self._open_grants(ledger.store.address(ledger.key()), spent)

    @contextmanager
    def _telling_what_is_left(
        self, jobs: Mapping[int, Job], ended: Mapping[int, Ended]
    ) -> Iterator[None]:
        """When a signal stops the run: give its slots back, and say what is left to do."""
        try:
            yield
        except Exception:
            raise
        except BaseException as error:
            self._generator.credentials.slots.give_back(SLOTS_BACK_SECONDS)
            left = what_is_left((job.record for job in jobs.values()), ended.values())
            error.add_note(left)
            self._logger.warning("%s", left)
            flush(self._logger)  # a signal's own handler ends the process, and what waits is lost
            raise


def _ticket(grants: Grants | None) -> str | None:
    """What the attempts of a prompt's requests begin with, if it matters which process sends them."""
    return f"{grants.process}-{uuid4().hex[:12]}-" if grants is not None else None
