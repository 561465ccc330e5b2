"""Whose turn it is, when several processes share an account: rules that all of them come to alone.

Each process knows the same of all of them (see `_server.Peer`), so nobody has to be asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prefect_nanobanana.slots._server import Peer
from prefect_nanobanana.slots._timings import DEFAULT, SlotTimings


def line(peers: Iterable[Peer]) -> list[str]:
    """Those who wait, in the order in which they get the next free slots.

    Who holds the fewest comes first, then who has waited longest.
    """
    waiting = (each for each in peers if each.waiting)
    return [each.id for each in sorted(waiting, key=lambda each: (each.held, each.since, each.id))]


def size(me: Peer, others: Iterable[Peer]) -> int:
    """How many slots the account has: the least that anybody who uses it believes."""
    return min([me.limit, *(each.limit for each in others)])


def share(me: Peer, others: Iterable[Peer]) -> int:
    """How many slots each has, if all who use the account have as many; what is left goes round."""
    others = list(others)
    users = 1 + sum(each.held > 0 or each.waiting for each in others)
    return size(me, others) // users


def to_give_up(
    me: Peer,
    others: Sequence[Peer],
    giving: int,
    held_for: float,
    timings: SlotTimings = DEFAULT,
) -> int:
    """How many of its slots a process is to give up, beyond those that it does already.

    Args:
        me: What the process holds.
        others: All the others that live.
        giving: How many it gives up already, as soon as their requests have ended.
        held_for: For how many seconds it has held the slot that it got last.
        timings: How long turns last.

    Returns:
        One or none; more if the account turns out to have fewer slots than are held.
    """
    mine = me.held - giving
    everyone = [me, *others]
    too_many = sum(each.held for each in everyone) - size(me, others)
    if too_many > 0:
        left = {each.id: each.held for each in everyone}
        for _ in range(too_many):
            left[max(everyone, key=lambda each: (left[each.id], -each.since, each.id)).id] -= 1
        return max(0, mine - left[me.id])
    donors = sorted(everyone, key=lambda each: (-each.held, each.since, each.id))
    needy = [each for each in others if each.waiting]
    if not needy or mine == 0:
        return 0
    fewest = min(each.held for each in needy)
    poorest = sum(each.held == fewest for each in needy)
    if donors.index(me) >= poorest:
        return 0  # others hold as many, for longer: it is on them
    ahead = mine - (fewest + giving)
    turn = timings.odd if fewest else timings.turn
    if not all(each.served for each in needy):
        turn = timings.newcomer
    return int(ahead >= 2 or (ahead == 1 and held_for >= turn))
