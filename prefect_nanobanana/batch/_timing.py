"""How long a run waits, and for what."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_nanobanana._common.adjustable import Adjustable


@dataclass(frozen=True)
class Timing:
    """How long a run waits, in seconds.

    Attributes:
        claim: After a claim it is looked at again, on stores without conditional writes.
        write_again_for: A record of something paid is tried to be written.
        settle_after: So long after its answer was given up, a request has ended, whatever became of its
            connection: a generation takes 10 to 60 s, and clients shall wait for at least 120 s (seed
            document).
        await_other_for: So long after it left, another run's request has its answer, as a rule.
        look_again_after: While another run's request is waited for, its record is read so often.
    """

    claim: float = 0.2
    write_again_for: float = 60.0
    settle_after: float = 120.0
    await_other_for: float = 75.0
    look_again_after: float = 3.0


TIMING = Adjustable(Timing())
"""How long the runs that start now wait."""
