"""Slots that Prefect's server counts, though nobody holds them: they are given back.

The limit's count of active slots is in the server's database, but its leases are, by default, in the
memory of the server alone. After a restart the count stays, and nothing would ever take it down again
(PrefectHQ/prefect#17415).
"""

from __future__ import annotations

from prefect_nanobanana.slots._logger import logger
from prefect_nanobanana.slots._peers import Peers
from prefect_nanobanana.slots._server import SharedLimit


class LeakFinder:
    """Compares what is counted with what is held.

    Args:
        peers: Who holds slots.
        seconds: How long the numbers must have stood before they are believed.
    """

    def __init__(self, peers: Peers, seconds: float) -> None:
        self._peers, self._seconds = peers, seconds
        self._counted, self._held, self._since = 0, 0, 0.0

    def watch(self, shared: SharedLimit, counted: int, mine: int, now: float) -> None:
        """Give back what has been counted for some time, though nobody who is alive holds it.

        Args:
            shared: The limit.
            counted: How many slots it counts.
            mine: How many of them this process holds.
            now: In seconds of the monotonic clock.
        """
        held = mine + self._peers.held_by_others
        if (counted, held) != (self._counted, self._held):
            # While numbers change, somebody may hold what he has not told of yet.
            self._counted, self._held, self._since = counted, held, now
            return
        if counted <= held or now - self._since < self._seconds or self._peers.place != 0:
            return
        # Everybody tells what he takes before he takes it, and gives it back before he tells: so if
        # nothing has changed around one more look, the numbers were not read at different times.
        self._peers.look(shared, now)
        limit = shared.read()
        leaked = counted - mine - self._peers.held_by_others
        self._counted, self._held, self._since = 0, 0, now
        if limit is not None and limit.active_slots == counted and leaked > 0:
            shared.release_unleased(leaked)
            logger().info("Slots of the account that nobody held are free again: %s.", leaked)
