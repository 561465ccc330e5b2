"""Runs that wait for a person: suspended, answered in Prefect's UI or by its API, refused, forgotten."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import MISSING, chromium
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


def _accepted(server: Deployed, run: str, wait_for: Wait, **answer: Any) -> None:
    """The same, once the form is there: Prefect saves it a moment after the run is suspended."""
    wait_for(lambda: _answer(server, run, **answer)["status"] == "ACCEPT", 60)


def _state(server: Deployed, run: str) -> str:
    return str(server.run(run)["state_name"])


def _input(server: Deployed, run: str, what: str) -> Any:
    """The form that Prefect's UI shows: its schema, its description."""
    return server.get(f"flow_runs/{run}/input/suspended-nanobanana-approval-{what}")


def _dry_runs(server: Deployed) -> list[str]:
    """The runs that were started from the form with its switch on."""
    runs = server.post("flow_runs/filter", {})
    return [run["id"] for run in runs if run["parameters"].get("dry_run")]


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
    assert "3 prompts: 3 new; 3 credits; 100 in the account, 97 after" in text
    assert "This costs 3 credits, more than the 2 that need no approval" in text
    wanted = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    assert [a["key"] for a in server.post("artifacts/filter", wanted)] == ["nanobanana-waits-plan"]

    server.stop()
    server.start()
    _accepted(server, run, wait_for, decision="approve", up_to_credits=2)
    with server.process(*worker):
        wait_for(lambda: server.ended(run), 240)
        message = server.run(run)["state"]["message"]
        assert message == "2 stored, 1 skipped; 2 credits used, 97 left"
        assert sandbox.account.charged == 3

        # Retry asks anew, though the rest costs no more than the bound: it is more than was approved.
        server.retry(run)
        wait_for(lambda: _state(server, run) == "Suspended", 240)
        assert _input(server, run, "schema")["properties"]["up_to_credits"]["default"] == 3
        assert "The run has spent 2 credits so far" in json.dumps(_input(server, run, "schema"))
        assert "more than is left of the 2 that were approved" in _input(server, run, "description")
        _accepted(server, run, wait_for, decision="approve", up_to_credits=3)
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
    # Nor does saying nothing, or half of it, approve.
    assert _answer(server, run)["status"] == "REJECT"
    assert _answer(server, run, decision="approve")["status"] == "REJECT"
    assert server.post(f"flow_runs/{run}/resume", {})["status"] == "REJECT"
    _accepted(server, run, wait_for, decision="refuse", up_to_credits=0)
    wait_for(lambda: server.ended(run), 240)
    state = server.run(run)["state"]
    assert (state["type"], state["name"]) == ("CANCELLED", "Cancelled")
    assert state["message"] == "refused by a person: this attempt asked for nothing and spent nothing"
    assert sandbox.account.posts == 0
    assert not (folder / "refused").exists()


def test_refused_once_it_asks_again_and_never_goes_on_by_itself(
    server: Deployed, deployed: object, worker: object, sandbox: Sandbox, wait_for: Wait
) -> None:
    """Two are approved, and spent; the third costs no more than needs no approval, but all three do."""
    run = _start(server, "twice", 2)
    for answer in (
        {"decision": "approve", "up_to_credits": 2},
        *[{"decision": "refuse", "up_to_credits": 3}] * 2,
    ):
        wait_for(lambda: _state(server, run) == "Suspended", 240)
        _accepted(server, run, wait_for, **answer)
        wait_for(lambda: server.ended(run), 240)
        server.retry(run)
    wait_for(lambda: _state(server, run) == "Suspended", 240)
    # Somebody sets its state by hand: that is no answer.
    server.post(f"flow_runs/{run}/set_state", {"state": {"type": "SCHEDULED"}, "force": True})
    wait_for(lambda: server.ended(run), 240)
    assert "was resumed without an answer" in server.run(run)["state"]["message"]
    assert sandbox.account.charged == 2


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
    _accepted(server, run, wait_for, decision="approve", up_to_credits=2)
    wait_for(lambda: server.ended(run), 300)
    assert server.run(run)["state"]["message"] == "2 stored, 1 skipped; 2 credits used, 98 left"
    assert sandbox.account.charged == 2


@pytest.mark.browser
@pytest.mark.skipif(bool(MISSING), reason=f"missing: {MISSING}")
def test_in_the_browser(
    server: Deployed, deployed: object, worker: object, sandbox: Sandbox, tmp_path: Path, wait_for: Wait
) -> None:
    """A dry run from the form, whose plan is read; one run approved with less, and another refused."""
    pictures = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    runs = [_start(server, batch, 2) for batch in ("approved", "not-approved")]
    with chromium() as chrome:
        page = chrome.new_page(1280, 900)
        page.set_default_timeout(120_000)
        ui = f"{server.url}/v2"

        page.goto(f"{ui}/deployments/deployment/{server.deployment('prompt-list')['id']}/run")
        page.get_by_label(re.compile("^dry_run")).click()
        assert page.get_by_label(re.compile("^dry_run")).get_attribute("aria-checked") == "true"
        for _ in range(10):  # a busy server answers 503, and nothing happened
            page.get_by_role("button", name="Submit").click()
            page.wait_for_timeout(5_000)
            if _dry_runs(server):
                break
        (dry,) = _dry_runs(server)
        wait_for(lambda: server.ended(dry), 240)
        assert server.run(dry)["state"]["message"].startswith(
            "nothing spent: 2 prompts: 2 new; 2 credits"
        )
        (plan,) = server.post("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [dry]}}})
        page.goto(f"{ui}/artifacts/artifact/{plan['id']}")
        page.get_by_text("2 prompts: 2 new; 2 credits; 100 in the account, 98 after").first.wait_for()

        for run, decision in zip(runs, ("approve", "refuse"), strict=True):
            wait_for(lambda run=run: _state(server, run) == "Suspended", 240)
            page.goto(f"{ui}/runs/flow-run/{run}")
            page.get_by_role("button", name="Open menu").click()
            page.get_by_role("menuitem", name="Resume").click()
            dialog = page.get_by_role("dialog")
            dialog.get_by_text("This costs 3 credits, more than the 2").wait_for()
            if decision == "approve":
                dialog.get_by_label(re.compile("^Up to")).fill("1")
            else:
                dialog.get_by_label("Select Decision").click()
                page.get_by_role("option", name="refuse").click()
            page.wait_for_timeout(500)  # for the picture only
            if decision == "approve":
                page.screenshot(path=pictures / "17-approval.png")
            for _ in range(10):  # as above
                dialog.get_by_role("button", name="Resume").click()
                page.wait_for_timeout(5_000)
                if _state(server, run) != "Suspended":
                    break
            wait_for(lambda run=run: server.ended(run), 240)
    messages = [server.run(run)["state"]["message"] for run in runs]
    assert messages[0] == "1 stored, 2 skipped; 1 credit used, 99 left"
    assert messages[1] == "refused by a person: this attempt asked for nothing and spent nothing"
    assert sandbox.account.charged == 1
