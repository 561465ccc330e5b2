"""How long the parts of the slots wait, in one place, so that tests can have them wait less."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SlotTimings:
    """All in seconds.

    Attributes:
        renew: Leases are renewed, and a sign of life is given, every so many seconds.
        trusted: A lease that was renewed less long ago cannot have expired.
        silent: A process that has given no sign of life for so long is dead.
        look: How often a process that has all the slots it wants looks whether others wait.
        line: How often one that waits looks who else does.
        linger: A slot that nobody in this process needs is given back after this.
        expect: How long slots are leased for requests that are on their way.
        leave: A process that has not used the account for so long is not counted any more.
        grace: A slot that is free for so long is taken by whoever sees it, whosever turn it is.
        settle: How long others have to take what was given up, before more is.
        leaked: What is counted for so long, and held by nobody, has leaked.
        alone: Without a slot and without Prefect's server for so long, a process goes on without it.
        farewell: The pauses between the tries to give everything back, before it is left to expire: a
            busy SQLite refuses some.
        try_again: After a first failure of Prefect's server it is asked again; each time twice as late.
        quickest_poll: The shortest time between two looks for a free slot.
        slowest_poll: The longest.
        newcomer: Who got a slot so long ago gives one up after its request, if somebody new waits.
        turn: The same, if somebody waits who holds none.
        odd: The same, if somebody waits who holds one less: slots that cannot be divided go round.
        longest_pause: No refusal holds everybody back for longer; who meets another one waits again.
        probe_after: So long after the last refusal or success, one async generation more is tried.
    """

    renew: float = 20.0
    trusted: float = 55.0
    silent: float = 60.0
    look: float = 3.0
    line: float = 1.0
    linger: float = 1.0
    expect: float = 5.0
    leave: float = 5.0
    grace: float = 3.0
    settle: float = 2.0
    leaked: float = 3.0
    alone: float = 10.0
    farewell: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6)
    try_again: float = 0.03
    quickest_poll: float = 0.1
    slowest_poll: float = 1.0
    newcomer: float = 10.0
    turn: float = 30.0
    odd: float = 120.0
    longest_pause: float = 120.0
    probe_after: float = 10.0


DEFAULT = SlotTimings()
