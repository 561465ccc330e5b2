"""What became of a request, beyond what the client tells."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_nanobanana.batch._ledger import Known
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.errors import NanoBananaError, NotCharged, UnknownOutcome
from prefect_nanobanana.models import Generation


class NotSent(NanoBananaError):
    """The run was stopped, or its ceiling reached, before this request left."""


class WorkerLost(UnknownOutcome):
    """The process that had this request in hand is gone, and has not told what came of it."""


@dataclass(frozen=True)
class Told:
    """What a worker, in another process, tells of a job.

    Attributes:
        record: What is known of the prompt.
        known: What the worker's ledger knows of the stored record.
        cost_told: Whether the API has told the cost.
        error: Why there is no answer.
        refusals: Answers that said that nothing was charged.
        paid: The answer, if it came.
        written: Whether the last step is in the ledger.
    """

    record: Record
    known: Known
    cost_told: bool
    error: Exception | None
    refusals: tuple[NotCharged, ...]
    paid: Generation | None
    written: bool
