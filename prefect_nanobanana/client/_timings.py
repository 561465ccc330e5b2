"""How long the client waits, for what."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_nanobanana._common.adjustable import Adjustable


@dataclass(frozen=True)
class Timings:
    """How long the client waits, in seconds.

    Attributes:
        connect: For a connection.
        look_up: For an answer that nothing is made for: models, credits, whether a generation has ended.
        retry_look_ups_for: How long a failed look-up of models or credits is tried again.
        settle_for: How long the end of a generation is asked for at least, even if it began long ago.
        first_poll: Before the end of a generation is asked for the first time (vendor's advice).
        poll_every: Between such requests (vendor's advice).
        close_poll: The same while an end is likely; so it is found a second late on average.
        first_delay: Before a request that was not charged is sent again.
        longest_delay: Between such attempts, unless the API asks for more.
    """

    connect: float = 10.0
    look_up: float = 30.0
    retry_look_ups_for: float = 30.0
    settle_for: float = 30.0
    first_poll: float = 5.0
    poll_every: float = 3.0
    close_poll: float = 2.0
    first_delay: float = 0.5
    longest_delay: float = 20.0


TIMINGS = Adjustable(Timings())
"""How long the clients that are made now wait, if they are not told."""
