"""Runs that wait for a person: suspended, answered in Prefect's UI or by its API, refused, forgotten."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deployed import Deployed

from prefect_nanobanana.sandbox import Sandbox

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
Wait = Callable[..., None]
RESPONSE = "suspended-nanobanana-approval-response"


def _start(server: Deployed, batch: str, approve_above: int, **parameters: Any) -> str:
    """A run of three prompts; the deployment's own max_credits is more than they cost."""
    given = {"prompts": ["a", "b", "c"], "approve_above": approve_above, "batch": batch, **parameters}
    return server.create_run("prompt-list", **given)


def _answer(server: Deployed, run: str, **answer: Any) -> dict[str, Any]:
    """As the form of the UI sends it."""
    found: dict[str, Any] = server.post(f"flow_runs/{run}/resume", {"run_input": answer})
    return found


def _state(server: Deployed, run: str) -> str:
    return str(server.run(run)["state_name"])


def _input(server: Deployed, run: str, what: str) -> Any:
    """The form that Prefect's UI shows: its schema, its description."""
    text = server.get(f"flow_runs/{run}/input/suspended-nanobanana-approval-{what}")
    return json.loads(text) if isinstance(text, str) else text


def _children(process: subprocess.Popen[bytes]) -> list[str]:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def test_it_waits_without_a_process_and_outlives_server_and_worker(
    server: Deployed, deployed: object, sandbox: Sandbox, folder: Path, wait_for: Wait
) -> None:
    worker = ("worker", "start", "--pool", "nanobanana")
    with server.process(*worker) as first:
        run = _start(server, "waits", 2)
        wait_for(lambda: _state(server, run) == "Suspended", 240)
        wait_for(lambda: not _children(first), 60)
        # It keeps the deployment's only place from nobody.
        other = server.create_run("prompt-list", prompts=["x"], batch="other")
        wait_for(lambda: server.ended(other), 240)
        assert _state(server, other) == "Completed"
    assert sandbox.account.posts == 1
    assert not (folder / "waits").exists(), "nothing is written, either"
    schema, text = _input(server, run, "schema"), _input(server, run, "description")
    assert schema["properties"]["up_to_credits"]["default"] == 3
    assert "3 prompts: 3 new; 3 credits; 99 in the account, 96 after" in text
    assert "This costs 3 credits, more than the 2 that need no approval" in text
    wanted = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    assert [a["key"] for a in server.post("artifacts/filter", wanted)] == ["nanobanana-waits-plan"]

    server.stop()
    server.start()
    assert _answer(server, run, decision="approve", up_to_credits=2)["status"] == "ACCEPT"
    with server.process(*worker):
        wait_for(lambda: server.ended(run), 240)
        message = server.run(run)["state"]["message"]
        assert message == "2 stored, 1 skipped; 2 credits used, 97 left"
        assert sandbox.account.charged == 3

        # Retry asks anew; what the run has spent already is part of what it may spend.
        server.retry(run)
        wait_for(lambda: _state(server, run) == "Suspended", 240)
        assert _input(server, run, "schema")["properties"]["up_to_credits"]["default"] == 3
        assert "The run has spent 2 credits so far" in json.dumps(_input(server, run, "schema"))
        _answer(server, run, decision="approve", up_to_credits=3)
        wait_for(lambda: server.ended(run), 240)
        message = server.run(run)["state"]["message"]
        assert message == "3 stored; 1 credit used, 2 paid earlier, 96 left"
    assert sandbox.account.charged == 4


def test_a_refused_run_is_cancelled_and_has_spent_nothing(
    server: Deployed, deployed: object, worker: object, sandbox: Sandbox, folder: Path, wait_for: Wait
) -> None:
    run = _start(server, "refused", 0)
    wait_for(lambda: _state(server, run) == "Suspended", 240)
    # What the form would not take, the server does not take.
    assert _answer(server, run, decision="approve", up_to_credits=-1)["status"] == "REJECT"
    assert _answer(server, run, decision="perhaps", up_to_credits=1)["status"] == "REJECT"
    assert _answer(server, run, decision="refuse")["status"] == "ACCEPT"
    wait_for(lambda: server.ended(run), 240)
    state = server.run(run)["state"]
    assert (state["type"], state["name"]) == ("CANCELLED", "Cancelled")
    assert state["message"] == "refused by a person: this attempt asked for nothing and spent nothing"
    assert sandbox.account.posts == 0
    assert not (folder / "refused").exists()


def test_a_run_that_nobody_answers_fails_by_itself(
    server: Deployed, deployed: object, worker: object, sandbox: Sandbox, wait_for: Wait
) -> None:
    run = _start(server, "forgotten", 0, approve_within_seconds=1)
    wait_for(lambda: server.ended(run), 240)
    state = server.run(run)["state"]
    assert (state["type"], state["message"]) == ("FAILED", "The flow was paused and never resumed.")
    assert sandbox.account.posts == 0


def test_parts_wait_for_a_person_too(
    server: Deployed, deployed: object, worker: object, sandbox: Sandbox, wait_for: Wait
) -> None:
    run = server.create_run("in-parts", prompts=["a", "b", "c"], batch="parts", approve_above=1)
    wait_for(lambda: _state(server, run) == "Suspended", 240)
    assert sandbox.account.posts == 0
    _answer(server, run, decision="approve", up_to_credits=2)
    wait_for(lambda: server.ended(run), 300)
    assert server.run(run)["state"]["message"] == "2 stored, 1 skipped; 2 credits used, 98 left"
    assert sandbox.account.charged == 2
