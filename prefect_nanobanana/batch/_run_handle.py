"""What a job needs of the run that it is part of."""

from __future__ import annotations

from typing import Protocol, TypeVar

from prefect_nanobanana.errors import NanoBananaError, NotCharged
from prefect_nanobanana.models import Credits, Generation, ImageRequest

J = TypeVar("J", contravariant=True)


class RunHandle(Protocol[J]):
    """What a job needs of the run that it is part of."""

    @property
    def admitted_for(self) -> float | None:
        """How long an admission holds, in seconds; None: for ever."""

    def begin(self, job: J) -> None:
        """Wait until it is the job's turn to have its task run begin."""

    def begun(self, job: J) -> None:
        """Its task run has begun, or never will."""

    def admit(self, job: J) -> None:
        """A request is about to leave; raises `NotSent` if it must not."""

    def refused(self, job: J, error: NotCharged) -> None:
        """A request was not charged, and is not under way any more."""

    def paid(self, job: J, generation: Generation) -> None:
        """An answer came."""

    def price(self, request: ImageRequest) -> Credits | None:
        """What a request costs in credits, by all that is known now."""

    def stop(self, why: str, error: NanoBananaError | None = None) -> None:
        """Send nothing more."""

    def write(self, job: J) -> bool:
        """Write the job's record, patiently; whether that succeeded."""

    def show(self, job: J, percent: int, message: str) -> None:
        """Show how far the generation is."""
