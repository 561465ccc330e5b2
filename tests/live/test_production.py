"""Workers on a production server: PostgreSQL, Redis, two API replicas, services apart; real kills."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import postgres
import pytest
from prefect_aws import S3Bucket
from production import Production

from prefect_nanobanana import NanoBananaGenerator
from prefect_nanobanana.sandbox import Sandbox

LIMIT, PROMPTS = 3, 12
pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        bool(postgres.MISSING),
        reason=f"NO {', '.join(postgres.MISSING)}: nothing of a production server is tested. "
        f"apt-get install {postgres.PACKAGES}",
    ),
]
Wait = Callable[..., None]
DEPLOYMENT = """
name: production
pull: []
deployments:
  - name: images
    entrypoint: prefect_nanobanana.flows.generate_images
    work_pool: {name: nanobanana}
    parameters:
      generator: {$ref: {block_document_slug: nano-banana-generator/default}}
      bucket: {$ref: {block_document_slug: s3-bucket/nanobanana}}
      fail_on: never
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    home = tmp_path_factory.mktemp("production")
    with Production(home) as running:
        running.prefect("work-pool", "create", "nanobanana", "--type", "process")
        (home / "prefect.yaml").write_text(DEPLOYMENT)
        running.deploy(home / "prefect.yaml")
        yield running


@pytest.fixture
def shop(server: Production, sandbox: Sandbox, generator: NanoBananaGenerator) -> NanoBananaGenerator:
    """An account with a few slots, and time enough to kill somebody."""
    sandbox.account.limit, sandbox.latency = LIMIT, (0.8, 1.2)
    credentials = generator.credentials.model_copy(update={"max_concurrent_requests": LIMIT})
    return generator.model_copy(update={"credentials": credentials})


def _worker(server: Production) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A worker that takes one run at a time."""
    pool = ("--pool", "nanobanana", "--type", "process")
    return server.process("worker", "start", *pool, "--limit", "1")


def _processes(run: str) -> list[int]:
    """The processes of a flow run."""
    mark, found = f"PREFECT__FLOW_RUN_ID={run}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has just ended
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _is_below(process: int, ancestor: int) -> bool:
    """Whether a process was started by another, or by one that it has started."""
    while process > 1 and process != ancestor:
        stat = Path(f"/proc/{process}/stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])
    return process == ancestor


def _kill(worker: subprocess.Popen[bytes], run: str) -> None:
    """Kill a worker, and the process of its run, which has a session of its own."""
    processes = _processes(run)
    assert processes
    os.killpg(worker.pid, signal.SIGKILL)
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
    worker.wait(20)


def _prompts(batch: str) -> list[str]:
    return [f"{batch}: a cat, number {n}" for n in range(PROMPTS)]


def _asked(sandbox: Sandbox, batch: str, status: str | None = None) -> int:
    rows = [row for row in sandbox.account.rows if row.prompt.startswith(f"{batch}: ")]
    return sum(1 for row in rows if status in (None, row.status))


def _message(server: Production, run: str) -> str:
    return str(server.run(run)["state"]["message"])


def _stored(folder: Path, batch: str) -> int:
    return len(list((folder / batch / "images").glob("*")))


def _check_money(sandbox: Sandbox, unknown: dict[str, int]) -> None:
    """One charge per prompt, whatever died; one that died just before it asked was not asked at all."""
    charged = Counter(row.prompt for row in sandbox.account.rows if row.credits)
    assert set(charged.values()) == {1}
    assert sandbox.account.charged == charged.total()
    for batch, unclear in unknown.items():
        assert len(set(_prompts(batch)) - set(charged)) <= unclear, f"{batch}: {sorted(charged)}"


def _kept_by_prefect(server: Production, run: str) -> bool:
    """Whether artifacts and the event of a run's end are on PostgreSQL, as they are on SQLite."""
    artifacts = server.post("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    keys = {str(artifact["key"]).rpartition("-")[2] for artifact in artifacts}
    related = {"id": [f"prefect.flow-run.{run}"]}
    filter_ = {"event": {"name": ["nanobanana.run.finished"]}, "related": related}
    events = server.post("events/filter", {"filter": filter_})["events"]
    return {"progress", "results", "credits"} <= keys and len(events) == 1


def _print_rows(server: Production) -> None:
    """What all of it has left in the database, by table; docs/production.md names this."""
    for table in ("task_run", "task_run_state", "flow_run_state", "log", "events", "event_resources"):
        ((rows, size),) = server.postgres.query(
            f"SELECT count(*), pg_total_relation_size('{table}') FROM {table}"
        )
        print(f"{table}: {int(rows) / (2 * PROMPTS):.1f} rows a prompt; {size} bytes in all")


def _free_slots(server: Production, shop: NanoBananaGenerator) -> bool:
    limit = server.get(f"v2/concurrency_limits/nano-banana-{shop.credentials.account}")
    return bool(limit["active_slots"] == 0)


def test_one_worker_is_killed_one_run_cancelled_a_replica_dies_and_all_goes_on(
    server: Production,
    shop: NanoBananaGenerator,
    save_blocks: Callable[..., None],
    bucket: S3Bucket,
    sandbox: Sandbox,
    folder: Path,
    wait_for: Wait,
) -> None:
    """One account, one set of slots: a run is killed with its worker, another cancelled at 30 %.

    Both batches are then run again, at the same time, and one API replica is killed meanwhile.
    """
    save_blocks(shop, bucket)
    cut, killed = "cut", "killed"
    with _worker(server) as dying, _worker(server):
        runs = {b: server.create_run("images", prompts=_prompts(b), batch=b) for b in (cut, killed)}
        wait_for(lambda: all(_asked(sandbox, batch, "completed") >= 1 for batch in runs), 120)
        if _is_below(_processes(runs[cut])[0], dying.pid):
            cut, killed = killed, cut
        assert sandbox.account.refusals == 0, "no more than the account's slots were used"
        wait_for(lambda: _asked(sandbox, killed, "processing") > 0)
        _kill(dying, runs[killed])
        wait_for(lambda: _asked(sandbox, cut, "completed") >= 0.3 * PROMPTS)
        # What the button in the UI sends.
        server.post(f"flow_runs/{runs[cut]}/set_state", {"state": {"type": "CANCELLING"}})
        wait_for(lambda: server.ended(runs[cut]) and not _processes(runs[cut]), 90)
        assert server.run(runs[cut])["state_type"] == "CANCELLED"
        asked = {batch: _asked(sandbox, batch) for batch in runs}
        assert max(asked.values()) < PROMPTS, f"they ended too late to show anything: {asked}"
        with _worker(server):
            again = {b: server.create_run("images", prompts=_prompts(b), batch=b) for b in runs}
            wait_for(lambda: all(_asked(sandbox, b) > asked[b] for b in runs), 120)
            server.kill_replica(0)
            wait_for(lambda: server.ended(*again.values()), 240)
        server.start_replica(0)
    _check_money(sandbox, {batch: PROMPTS - _stored(folder, batch) for batch in runs})
    assert sandbox.account.most_open <= LIMIT
    for batch, run in again.items():
        message, unknown = _message(server, run), PROMPTS - _stored(folder, batch)
        print(f"{batch} at {asked[batch]} of {PROMPTS}: {message}")
        assert server.run(run)["state_type"] == "COMPLETED", message
        assert unknown <= LIMIT
        assert (f"{unknown} unknown" in message) == bool(unknown)
        wait_for(lambda run=run: _kept_by_prefect(server, run), 60)
    wait_for(lambda: _free_slots(server, shop), 60)
    _print_rows(server)
