"""An account's slots as Prefect's server knows them, for all processes on all machines.

Two things are kept there:

- a global concurrency limit, from which each process leases slots. The server takes a lease back that
  nobody renews;
- a variable for each process that uses or wants slots: how many it holds, whether it waits, since when.
  From these every process knows whose turn it is. They are needed for another reason too: the limit's
  count of active slots is in the server's database, but its leases are, by default, in the memory of
  the server alone. After a restart the count stays, and nothing would ever take it down again
  (PrefectHQ/prefect#17415). What is counted, and held by nobody alive, can be told only from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

LEASE_SECONDS = 60.0
"""The shortest lease that Prefect's server gives."""
REQUEST_TIMEOUT_SECONDS = 10.0
TAGS = ["nano-banana", "slots"]


@dataclass(frozen=True)
class Peer:
    """What one process says of itself.

    Attributes:
        id: Tells processes apart.
        host: The machine it runs on.
        pid: Its process id there.
        limit: How many slots it believes the account to have.
        held: How many it holds.
        leases: The ids of their leases.
        waiting: Whether it could use more than it holds.
        served: Whether it has held one at all.
        since: When what it holds or wants last changed, in seconds since 1970.
        pauses: How many times the API has told it to wait.
        pause_seconds: How long, the last time.
        beat: Counts up as long as the process lives.
    """

    id: str
    host: str
    pid: int
    limit: int
    held: int = 0
    leases: list[str] = field(default_factory=list)
    waiting: bool = False
    served: bool = False
    since: float = 0.0
    pauses: int = 0
    pause_seconds: float = 0.0
    beat: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition('/')[0]}"


@dataclass(frozen=True)
class LastSeen:
    """When another process was last seen to live.

    Attributes:
        beat: Its count then.
        pauses: How many times the API had told it to wait.
        since: For how long it has shown this count, on this process's own monotonic clock.
    """

    beat: int
    pauses: int
    since: float


class SwitchedOff(Exception):
    """Somebody has switched the limit off in Prefect."""


def _raise_at_once(response: httpx.Response) -> None:
    # Prefect's client sleeps for 2 s after such an answer, even if it is not to try again.
    if response.status_code in (429, 502, 503):
        response.raise_for_status()


class SharedLimit:
    """The limit of one account. Use it as a context manager; it belongs to one thread.

    All methods raise what Prefect's client raises when the server cannot be reached or refuses.

    Args:
        account: What tells accounts apart, without giving away the key.
    """

    def __init__(self, account: str) -> None:
        self.name = f"nano-banana-{account}"
        self._prefix = f"nano_banana_slots_{account}_"
        # Settings of its own: else Prefect hands out the client of a flow run, which may be closed.
        self._client: SyncPrefectClient = get_client(
            httpx_settings={
                "timeout": REQUEST_TIMEOUT_SECONDS,
                "event_hooks": {"response": [_raise_at_once]},
            },
            sync_client=True,
        )

    def __enter__(self) -> SharedLimit:
        self._client.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._client.__exit__(*exc_info)

    def read(self) -> GlobalConcurrencyLimitResponse | None:
        """What the server says of the limit, if it is there."""
        try:
            return self._client.read_global_concurrency_limit_by_name(self.name)
        except ObjectNotFound:
            return None

    def resize(self, limit: int) -> None:
        """Create the limit, or set how many slots it has."""
        try:
            self._client.upsert_global_concurrency_limit_by_name(self.name, limit)
        except (ObjectAlreadyExists, PrefectHTTPStatusError):
            # Another process has created it at the same moment.
            self._client.upsert_global_concurrency_limit_by_name(self.name, limit)

    def lease(self, slots: int = 1) -> str | None:
        """Lease slots, if so many are free.

        Returns:
            The lease's id.
        """
        try:
            answer = self._client.increment_concurrency_slots_with_lease(
                names=[self.name], slots=slots, mode="concurrency", lease_duration=LEASE_SECONDS
            ).json()
        except PrefectHTTPStatusError as error:
            if error.response.status_code in (422, 423):
                return None
            raise
        if answer["limits"]:
            return str(answer["lease_id"])
        # Somebody has deleted the limit: the server leases out what does not exist.
        self.release(answer["lease_id"])
        return None

    def renew(self, lease: str) -> bool:
        """Keep a lease for `LEASE_SECONDS` more.

        Returns:
            Whether the server knows it still.
        """
        try:
            self._client.renew_concurrency_lease(UUID(lease), LEASE_SECONDS)
        except PrefectHTTPStatusError as error:
            if error.response.status_code in (404, 410):
                return False
            raise
        return True

    def release(self, lease: str) -> None:
        """Give a lease's slots back; nothing happens if the server does not know the lease."""
        self._client.release_concurrency_slots_with_lease(UUID(lease))

    def release_unleased(self, slots: int) -> None:
        """Give back slots that are counted, and of whose leases the server knows nothing."""
        self._client.release_concurrency_slots([self.name], slots, occupancy_seconds=1.0)

    def peers(self) -> Iterator[Peer]:
        """All processes that use or want slots of the account."""
        answer = self._client.request(
            "POST",
            "/variables/filter",
            json={"variables": {"name": {"like_": self._prefix}}, "limit": 200},
        )
        known = {each.name for each in fields(Peer)}
        for variable in answer.json():
            try:
                peer = Peer(**{name: variable["value"][name] for name in known})
            except (TypeError, KeyError):
                continue  # not ours, or of another version
            if variable["name"] == self._prefix + peer.id:
                yield peer

    def enter(self, peer: Peer) -> None:
        """Say that this process uses the account."""
        try:
            self._client.create_variable(
                VariableCreate(name=self._prefix + peer.id, value=asdict(peer), tags=TAGS)
            )
        except ObjectAlreadyExists:
            # It was said before, and the server's answer was lost.
            self.update(peer)

    def update(self, peer: Peer) -> bool:
        """Say what has changed.

        Returns:
            Whether the server still had it: if not, others believe this process to be dead.
        """
        try:
            self._client.update_variable(VariableUpdate(name=self._prefix + peer.id, value=asdict(peer)))
        except PrefectHTTPStatusError as error:
            if error.response.status_code == 404:
                return False
            raise
        return True

    def leave(self, peer: Peer) -> bool:
        """Say that a process does not use the account any more.

        Returns:
            Whether it was this call that said so.
        """
        try:
            self._client.delete_variable_by_name(self._prefix + peer.id)
        except ObjectNotFound:
            return False
        return True
