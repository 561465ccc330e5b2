"""A batch in parts, over a real work pool: what it costs, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deployed import Deployed

from prefect_nanobanana import ImagePrompt, NanoBananaGenerator
from prefect_nanobanana.batch._keys import prompt_keys
from prefect_nanobanana.sandbox import Sandbox

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
Wait = Callable[..., None]
ENDING = {"CANCELLING", "CANCELLED"}


@pytest.fixture
def worker(server: Deployed, deployed: object) -> Iterator[subprocess.Popen[bytes]]:
    """One of this test alone, which may kill it."""
    with server.process("worker", "start", "--pool", "nanobanana", "--type", "process") as process:
        yield process


def test_one_batch_in_three_parts(
    server: Deployed,
    deployed: object,
    worker: object,
    sandbox: Sandbox,
    folder: Path,
    wait_for: Wait,
) -> None:
    """Equal prompts and a warning among them; one ledger, one ceiling, one set of slots, one report."""
    sandbox.account.limit, sandbox.latency = 1, (0.3, 0.3)
    prompts = [*(f"a cat, number {n}" for n in range(9)), "a dog", "a dog", "nude"]
    run = server.create_run("in-parts", prompts=prompts, batch="whole", parts=3, max_credits=20)
    wait_for(lambda: server.ended(run), 240)
    assert server.run(run)["state"]["message"] == "11 stored, 1 warning; 12 credits used, 88 left"
    account = sandbox.account
    assert (account.posts, account.charged, account.most_open, account.refusals) == (12, 12, 1, 0)
    parts = _parts(server, "whole")
    assert [part["state_type"] for part in parts] == ["COMPLETED"] * 3
    did = [part["state"]["message"] for part in parts]
    used = [int(re.search(r"(\d+) credits? used", message)[1]) for message in did]  # type: ignore[index]
    assert sum(used) == 11, "the first one told the price"
    rows = [json.loads(line) for line in (folder / "whole/manifest.jsonl").read_text().splitlines()]
    assert [row["prompt"]["prompt"] for row in rows] == prompts
    assert [row["position"] for row in rows] == list(range(1, 13))
    assert not any(row["reused"] for row in rows)
    assert len(list((folder / "whole/images").iterdir())) == 11
    assert "11 stored, 1 warning" in (folder / "whole/index.html").read_text()
    for part in parts:
        assert set(part["parameters"]["generator"]) == {"$ref"}
    assert sandbox.api_key.encode() not in (server.home / "prefect.db").read_bytes()


def test_a_part_that_is_killed_is_started_anew(
    server: Deployed,
    deployed: object,
    worker: object,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    folder: Path,
    wait_for: Wait,
) -> None:
    """What it had in flight is maybe paid, is said to be, and is not asked for again."""
    sandbox.account.limit, sandbox.latency = 1, (0.2, 0.2)
    sandbox.running.clear()
    prompts = [f"a dog, number {n}" for n in range(9)]
    run = server.create_run("in-parts", prompts=prompts, batch="hurt", parts=2, max_credits=None)
    wait_for(lambda: sandbox.account.posts == 1, 240)
    wait_for(lambda: [part["state_type"] for part in _parts(server, "hurt")] == ["RUNNING"] * 2, 120)
    (asked,) = [p.stem for p in (folder / "hurt/records").iterdir() if '"asked"' in p.read_text()]
    listed = [ImagePrompt(prompt=prompt) for prompt in prompts]
    keys = sorted(key.key for key in prompt_keys(listed, [generator.request(p) for p in listed]))
    _kill(_parts(server, "hurt")[keys.index(asked) % 2])
    sandbox.running.set()
    wait_for(lambda: server.ended(run), 240)
    report = server.run(run)["state"]["message"]
    assert report.startswith("8 stored, 1 unknown; 8 credits used"), report
    assert "requests without an answer cost up to 1 credit" in report
    account = sandbox.account
    assert (account.posts, account.charged, account.most_open) == (9, 9, 1)
    states = sorted(f"{part['name']}: {part['state_type']}" for part in _parts(server, "hurt"))
    assert len(states) == 3
    assert sum("CRASHED" in state for state in states) == 1
    assert any("start 2: COMPLETED" in state for state in states), states
    assert len((folder / "hurt/manifest.jsonl").read_text().splitlines()) == 9


def test_who_cancels_the_parent_cancels_its_parts(
    server: Deployed, deployed: object, worker: object, sandbox: Sandbox, wait_for: Wait
) -> None:
    """At once, and not only when Prefect's server comes round to it; what is paid for is kept."""
    sandbox.account.limit = 1
    sandbox.running.clear()
    prompts = [f"a hen, number {n}" for n in range(6)]
    run = server.create_run("in-parts", prompts=prompts, batch="stopped", parts=2, max_credits=None)
    wait_for(lambda: [part["state_type"] for part in _parts(server, "stopped")] == ["RUNNING"] * 2, 240)
    wait_for(lambda: sandbox.account.posts == 1, 60)
    server.post(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    wait_for(lambda: {part["state_type"] for part in _parts(server, "stopped")} <= ENDING, 120)
    sandbox.running.set()
    ids = [part["id"] for part in _parts(server, "stopped")]
    wait_for(lambda: server.ended(run, *ids), 120)
    assert [server.run(id_)["state_type"] for id_ in (run, *ids)] == ["CANCELLED"] * 3
    assert sandbox.account.posts == sandbox.account.charged < 6


def test_the_same_call_finishes_what_parent_parts_and_worker_left_when_they_were_killed(
    server: Deployed,
    deployed: object,
    worker: subprocess.Popen[bytes],
    sandbox: Sandbox,
    folder: Path,
    wait_for: Wait,
) -> None:
    """A parent that is killed leaves its parts at work; a process worker takes its runs along."""
    sandbox.account.limit, sandbox.latency = 1, (0.8, 0.8)
    sandbox.running.clear()
    prompts = [f"a cow, number {n}" for n in range(10)]
    settings: dict[str, Any] = {"prompts": prompts, "batch": "orphans", "parts": 2, "max_credits": None}
    run = server.create_run("in-parts", **settings)
    wait_for(lambda: [part["state_type"] for part in _parts(server, "orphans")] == ["RUNNING"] * 2, 240)
    wait_for(lambda: sandbox.account.posts == 1, 60)
    _kill(server.run(run))
    wait_for(lambda: server.run(run)["state_type"] == "CRASHED", 120)
    sandbox.running.set()
    wait_for(lambda: sandbox.account.posts >= 3, 60)
    worker.kill()
    worker.wait(60)
    wait_for(lambda: server.ended(*(part["id"] for part in _parts(server, "orphans"))), 120)
    with server.process("worker", "start", "--pool", "nanobanana", "--type", "process"):
        again = server.create_run("in-parts", **settings)
        wait_for(lambda: server.ended(again), 300)
    rows = [json.loads(line) for line in (folder / "orphans/manifest.jsonl").read_text().splitlines()]
    statuses = [row["status"] for row in rows]
    assert statuses.count("stored") + statuses.count("unknown") == len(statuses) == 10
    assert statuses.count("unknown") <= 1, "at most what was in flight"
    assert (sandbox.account.posts, sandbox.account.charged, sandbox.account.most_open) == (10, 10, 1)


def _kill(run: dict[str, Any]) -> None:
    """Kill the process of a flow run, which the worker has noted down."""
    os.kill(int(run["infrastructure_pid"].rpartition(":")[2]), signal.SIGKILL)


def _parts(server: Deployed, batch: str) -> list[dict[str, Any]]:
    """The parts of a batch, in their order."""
    runs = server.post("flow_runs/filter", {"flow_runs": {"name": {"like_": f"{batch}, part"}}})
    return sorted(runs, key=lambda run: str(run["name"]))
