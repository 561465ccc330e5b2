"""The flow runs that are the parts of a batch: started, watched, started anew, given up."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventOccurredFilter
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Crashed

from prefect_nanobanana._common.adjustable import Adjustable
from prefect_nanobanana._common.text import counted
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.flows._call import Logger
from prefect_nanobanana.models import Part

REFUSED = "Refused"
"""The name of the state of a part that was given another list: starting it anew changes nothing."""
STARTS = 3
"""So often a part is started at most."""
MOST_BYTES = 500_000
"""Of a flow run's parameters: Prefect's server takes 524,288."""
_LIVE = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_BUSY = (429, 500, 502, 503, 504)

T = TypeVar("T")


@dataclass(frozen=True)
class PartTimes:
    """How long is waited for parts, in seconds.

    Attributes:
        poll: Between two looks at them.
        say_after: A part that no worker has taken up for so long is mentioned in the log.
        heartbeats: How many of Prefect's heartbeats must be missing until a part counts as dead.
    """

    poll: float = 2.0
    say_after: float = 30.0
    heartbeats: int = 3


PART_TIMES = Adjustable(PartTimes())


@dataclass(frozen=True)
class _Watched:
    """A part's flow run; without a part if another call has started it."""

    id: UUID
    part: Part | None = None
    starts: int = 1
    since: float = field(default_factory=time.monotonic)


class PartRuns:
    """The flow runs that are the parts of one batch.

    Args:
        deployment: What they are runs of, as `generate_part/part`.
        work: The batch's address, by which its parts are found again.
        call: Tells this attempt of this call from all others.
        start_within_seconds: A part that no worker has taken up after that is cancelled.
        logger: Is told what becomes of them.

    Raises:
        InvalidInput: If there is no such deployment.
    """

    def __init__(
        self,
        deployment: str,
        work: str,
        call: str,
        start_within_seconds: float,
        logger: Logger,
    ) -> None:
        self._deployment = deployment
        self._tag = f"nanobanana-parts-{hashlib.sha256(work.encode()).hexdigest()[:12]}"
        self._call = call
        self._start_within = start_within_seconds
        self._logger = logger
        self._times = PART_TIMES.get()
        self._mentioned: set[UUID] = set()
        try:
            self._ask(lambda client: client.read_deployment_by_name(deployment))
        except (ObjectNotFound, ValueError):
            raise InvalidInput(
                f"deployment: there is no {deployment!r}: deploy the flow generate_part first, and name "
                "it as flow/deployment"
            ) from None

    def await_earlier(self) -> None:
        """Wait for parts of the batch that an earlier attempt or call has left at work."""
        filter_ = FlowRunFilter.model_validate(
            {"tags": {"all_": [self._tag]}, "state": {"type": {"any_": _LIVE}}}
        )
        found = self._read(filter_)
        if found:
            self._logger.info("%s of this batch are still at work", counted(len(found), "part"))
        self._watch([_Watched(run.id) for run in found], {}, "")

    def run(self, parts: Sequence[Part], parameters: dict[str, Any], batch: str) -> None:
        """Have the parts run, until all have ended. How they end is for the ledger to say.

        Args:
            parts: What to start.
            parameters: What all of them are given.
            batch: The batch's name.
        """
        runs = [_Watched(self._start(part, 1, parameters, batch), part) for part in parts]
        self._watch(runs, parameters, batch)

    def _start(self, part: Part, start: int, parameters: dict[str, Any], batch: str) -> UUID:
        key = hashlib.sha256(f"{self._call} {part.number} {start}".encode()).hexdigest()
        name = f"{batch}, part {part.number} of {part.of}" + (f", start {start}" if start > 1 else "")

        def begin(_: SyncPrefectClient) -> UUID:
            run = run_deployment(
                self._deployment,
                parameters={**parameters, "part": part.model_dump(mode="json")},
                flow_run_name=name,
                timeout=0,
                tags=[self._tag],
                idempotency_key=key,
                _sync=True,  # type: ignore[call-arg]  # of Prefect's decorator: never a coroutine
            )
            return cast(FlowRun, run).id

        return self._ask(begin)

    def _watch(self, runs: list[_Watched], parameters: dict[str, Any], batch: str) -> None:
        try:
            while runs:
                runs = self._look(runs, parameters, batch)
        except BaseException:
            self._cancel_too(runs)
            raise

    def _look(self, runs: list[_Watched], parameters: dict[str, Any], batch: str) -> list[_Watched]:
        """Look at all runs once, a while later; return those that have not ended."""
        time.sleep(self._times.poll)
        filter_ = FlowRunFilter.model_validate({"id": {"any_": [run.id for run in runs]}})
        states = {run.id: run.state for run in self._read(filter_)}
        left = []
        for run in runs:
            state = states.get(run.id)
            if state is not None and not state.is_final():
                self._look_after(run, state)
                left.append(run)
            elif self._is_to_start_again(run, state) and run.part is not None:
                run_id = self._start(run.part, run.starts + 1, parameters, batch)
                left.append(_Watched(run_id, run.part, run.starts + 1))
        return left

    def _cancel_too(self, runs: Sequence[_Watched]) -> None:
        """Cancel the parts if this run is: Prefect's server does so later, while they go on spending."""
        with suppress(Exception), get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(flow_run.get_id())).state
            if state is not None and (state.is_cancelling() or state.is_cancelled()):
                for run in runs:
                    if run.part is not None:
                        message = "the run that it is a part of was cancelled"
                        client.set_flow_run_state(run.id, Cancelling(message=message))

    def _is_to_start_again(self, run: _Watched, state: State[Any] | None) -> bool:
        """Say how a part ended, and whether it is started anew."""
        if run.part is None:
            return False
        name, message = (state.name, state.message) if state else ("Deleted", None)
        what = f"Part {run.part.number} of {run.part.of}"
        if state is not None and state.is_completed():
            self._logger.info("%s has ended: %s", what, message)
            return False
        again = (
            state is not None
            and state.type in (StateType.FAILED, StateType.CRASHED)
            and name != REFUSED
            and run.starts < STARTS
        )
        then = "it is started anew" if again else "this run does what it left"
        self._logger.warning("%s ended as %s (%s): %s", what, name, message, then)
        return again

    def _look_after(self, run: _Watched, state: State[Any]) -> None:
        """End what does not begin, or has died without anybody noticing."""
        waited = time.monotonic() - run.since
        if state.is_scheduled() or state.is_pending():
            if waited > self._start_within:
                self._logger.warning("No worker took up a part in %.0f s: it is cancelled", waited)
                # Prefect's server takes that for Cancelled, if it has not begun.
                self._set(run, Cancelling(message="no worker took it up in time"))
            elif waited > self._times.say_after and run.id not in self._mentioned:
                self._mentioned.add(run.id)
                self._logger.warning(
                    "A part waits for a worker of the work pool that %s names", self._deployment
                )
        elif state.is_running():
            every = get_current_settings().flows.heartbeat_frequency
            silence = (every or 0) * self._times.heartbeats
            age = (datetime.now(UTC) - state.timestamp).total_seconds()
            if every and age > silence and not self._lives(run, silence):
                message = f"it has not been heard of for {silence} s"
                self._set(run, Crashed(message=message), force=True)

    def _lives(self, run: _Watched, seconds: float) -> bool:
        """Whether anything was heard of a flow run in the last seconds."""
        filter_ = EventFilter(
            occurred=EventOccurredFilter(since=datetime.now(UTC) - timedelta(seconds=seconds)),
            any_resource=EventAnyResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
        )
        return bool(self._ask(lambda client: client.read_events(filter_, limit=1)).events)

    def _read(self, filter_: FlowRunFilter) -> list[FlowRun]:
        return self._ask(lambda client: client.read_flow_runs(flow_run_filter=filter_))

    def _set(self, run: _Watched, state: State[Any], *, force: bool = False) -> None:
        self._ask(lambda client: client.set_flow_run_state(run.id, state, force=force))

    def _ask(self, question: Callable[[SyncPrefectClient], T]) -> T:
        """Ask Prefect's server, for as long as it is away: the parts can do without, and so can this."""
        said = False
        while True:
            try:
                with get_client(sync_client=True) as client:
                    return question(client)
            except PrefectHTTPStatusError as error:
                if error.response.status_code not in _BUSY:
                    raise
                why = f"{error.response.status_code}"
            except httpx.TransportError as error:
                why = type(error).__name__
            if not said:
                self._logger.warning("Prefect's server does not answer (%s): it is asked again", why)
                said = True
            time.sleep(self._times.poll)


def check_size(parameters: dict[str, Any]) -> None:
    """Refuse parameters that Prefect's server would refuse.

    Raises:
        InvalidInput: If they are too long.
    """
    if len(json.dumps(parameters)) > MOST_BYTES:
        raise InvalidInput(
            "prompts: too long for the parameters of a flow run: give them as a file, in prompts_from"
        )
