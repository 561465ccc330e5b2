"""The deployments as their users run them: with a real server, workers, blocks and schedules."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployed import DEPLOYMENTS, Deployed
from prefect_aws import S3Bucket

from prefect_nanobanana import ImagePrompt, NanoBananaGenerator
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.s3._store import ObjectStore
from prefect_nanobanana.sandbox import Sandbox

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
Rows = dict[str, dict[str, Any]]
Wait = Callable[..., None]


def test_what_is_deployed(deployed: Rows) -> None:
    assert set(deployed) >= {"prompt-list", "daily", "copy-pending"}
    assert deployed["prompt-list"]["schedules"] == []
    for name, cron in (("daily", "0 6 * * *"), ("copy-pending", "30 6 * * *")):
        (schedule,) = deployed[name]["schedules"]
        assert schedule["active"]
        assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == (cron, "Etc/UTC")
    for name, strategy in (
        ("prompt-list", "ENQUEUE"),
        ("daily", "ENQUEUE"),
        ("copy-pending", "CANCEL_NEW"),
    ):
        row = deployed[name]
        assert row["global_concurrency_limit"]["limit"] == 1
        assert row["concurrency_options"]["collision_strategy"] == strategy
        assert row["tags"] == ["nanobanana"]
        assert len(row["description"]) > 80
    assert deployed["daily"]["parameters"]["max_credits"] == 10
    # The day of the schedule is told in the schedule's own time zone.
    assert deployed["daily"]["parameters"]["time_zone"] == "Etc/UTC"


def test_deployed_and_run_by_a_worker(
    server: Deployed,
    deployed: object,
    worker: object,
    sandbox: Sandbox,
    bucket: S3Bucket,
    folder: Path,
    wait_for: Callable[..., None],
) -> None:
    server.prefect("deployment", "run", "generate_images/prompt-list", "-p", "batch=from-a-worker")
    # Another, with one prompt that the safety check refuses, as from the form of the UI.
    refused = json.dumps(["a bloody sword", {"prompt": "a cat", "quantity": 2}])
    server.prefect(
        *("deployment", "run", "generate_images/prompt-list", "-p", "batch=second"),
        *("-p", f"prompts={refused}"),
    )
    wait_for(lambda: len(_final(server, "from-a-worker", "second")) == 2, 180)
    runs = _final(server, "from-a-worker", "second")
    assert {run["state"]["name"] for run in runs} == {"Completed"}
    # Which of the two the worker takes first is its own affair.
    assert sorted(run["state"]["message"].rpartition(",")[0] for run in runs) == [
        "1 stored, 1 warning; 3 credits used",
        "2 stored; 2 credits used",
    ]
    assert sandbox.account.charged == 5
    assert len(list((folder / "from-a-worker/images").iterdir())) == 2
    # Neither key is in anything that Prefect stored in clear.
    database = server.home / "prefect.db"
    assert sandbox.api_key.encode() not in database.read_bytes()
    secret = bucket.credentials.minio_root_password.get_secret_value()  # type: ignore[union-attr]
    assert secret.encode() not in database.read_bytes()


def test_the_retry_button_goes_on_where_the_run_stopped(
    server: Deployed,
    deployed: object,
    worker: object,
    sandbox: Sandbox,
    wait_for: Callable[..., None],
) -> None:
    """Without a batch name: the flow run, and so its batch, stays the same."""
    sandbox.faults.queue(None, "400")
    prompts = json.dumps(["x", "nude", "z"])
    server.prefect("deployment", "run", "generate_images/prompt-list", "-p", f"prompts={prompts}")

    def ours() -> list[Any]:
        runs = _final(server, None)
        return [run for run in runs if run["parameters"].get("prompts", [""])[0] == "x"]

    wait_for(lambda: [run["state_type"] for run in ours()] == ["FAILED"], 120)
    (run,) = ours()
    assert "1 failed" in run["state"]["message"]
    server.retry(run["id"])
    wait_for(lambda: [run["state_type"] for run in ours()] == ["COMPLETED"], 120)
    (run,) = ours()
    assert run["state"]["message"] == "2 stored, 1 warning; 1 credit used, 2 paid earlier, 97 left"
    assert (sandbox.account.posts, sandbox.account.charged) == (4, 3)


def test_a_form_in_a_browser_reads_no_file_of_the_worker(
    server: Deployed,
    deployed: object,
    worker: object,
    sandbox: Sandbox,
    tmp_path: Path,
    wait_for: Callable[..., None],
) -> None:
    (tmp_path / "prompts.txt").write_text("a cat")
    run = server.create_run("prompt-list", prompts_from=f"{tmp_path}/prompts.txt")
    wait_for(lambda: server.ended(run), 180)
    assert "is not below a folder that lists may be read from" in server.run(run)["state"]["message"]
    assert sandbox.account.posts == 0


def _final(server: Deployed, *batches: str | None) -> list[dict[str, Any]]:
    """The deployment's runs of these batches that have come to an end."""
    runs = server.post("flow_runs/filter", {"flow_runs": {"deployment_id": {"is_null_": False}}})
    return [
        run
        for run in runs
        if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")
        and run["parameters"].get("batch") in batches
    ]


def test_registering_the_blocks(server: Deployed) -> None:
    out = server.prefect("block", "register", "-m", "prefect_nanobanana")
    assert "Nano Banana Credentials" in out
    assert "Nano Banana Generator" in out
    slugs = {row["slug"] for row in server.post("block_types/filter", {})}
    assert {"nano-banana-credentials", "nano-banana-generator"} <= slugs


def test_a_schedule_that_is_taken_out_stays_until_it_is_cleared(
    server: Deployed, saved_blocks: None, tmp_path: Path
) -> None:
    """As docs/deployments.md says: Prefect removes no schedule because the file names none."""
    server.prefect("work-pool", "create", "nanobanana", "--type", "process", "--overwrite")
    old = yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text())
    (old["deployments"][0])["schedules"] = [
        {"cron": "0 6 * * *", "timezone": "Etc/UTC", "active": True, "slug": "every-morning"}
    ]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(old))
    assert len(server.deploy(tmp_path / "prefect.yaml")["prompt-list"]["schedules"]) == 1
    assert len(server.deploy()["prompt-list"]["schedules"]) == 1
    server.prefect("deployment", "schedule", "clear", "-y", "generate_images/prompt-list")
    assert server.deploy()["prompt-list"]["schedules"] == []


def test_a_day_is_paid_once(
    server: Deployed,
    deployed: Rows,
    worker: object,
    sandbox: Sandbox,
    folder: Path,
    wait_for: Wait,
) -> None:
    now = datetime.now(UTC)
    yesterday, today = now - timedelta(days=1), now - timedelta(minutes=1)
    first = server.create_run("daily", at=yesterday)
    wait_for(lambda: server.ended(first), 240)
    assert server.run(first)["state"]["message"] == "2 stored; 2 credits used, 98 left"
    # The same day by hand.
    again = server.create_run("daily", day=yesterday.date().isoformat())
    wait_for(lambda: server.ended(again), 240)
    assert server.run(again)["state"]["message"] == "2 stored; 0 credits used, 2 paid earlier, 98 left"
    assert sandbox.account.posts == 2
    next_day = server.create_run("daily", at=today)
    late = server.create_run("daily", at=now - timedelta(days=9))
    wait_for(lambda: server.ended(next_day, late), 240)
    assert server.run(next_day)["state"]["message"] == "2 stored; 2 credits used, 96 left"
    assert "nothing was asked" in server.run(late)["state"]["message"]
    assert sandbox.account.posts == 4
    batches = {path.name for path in folder.iterdir()} - {"nanobanana-credits"}
    assert batches == {f"daily-{yesterday.date()}", f"daily-{today.date()}"}
    assert len(list((folder / f"daily-{yesterday.date()}" / "images").iterdir())) == 2
    assert f"{yesterday:%A}" in sandbox.account.rows[0].prompt + sandbox.account.rows[1].prompt


def test_a_day_whose_process_was_killed_goes_on(
    server: Deployed,
    deployed: Rows,
    save_blocks: Callable[..., None],
    worker: subprocess.Popen[bytes],
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    folder: Path,
    wait_for: Wait,
) -> None:
    """Its run inside was left behind as Running: Retry takes that up, and what was begun is fetched.

    The button works on the day of the schedule, not on that on which it is pressed.
    """

    def records() -> list[Path]:
        return [*folder.glob("*/records/*.json")]

    save_blocks(generator.model_copy(update={"mode": "async"}), bucket)
    sandbox.running.clear()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    run = server.create_run("daily", at=yesterday)
    # Killed before both ids are recorded, it could not know what became of one.
    wait_for(lambda: [r.read_text().count('"submitted"') for r in records()] == [1, 1], 240)
    for child in _children(worker.pid):
        os.kill(child, signal.SIGKILL)
    wait_for(lambda: server.run(run)["state_type"] == "CRASHED", 240)
    # Seconds later, Prefect's worker reports the same crash again, which undoes a Retry before that.
    wait_for(lambda: server.worker_is_done_with(run), 240)
    sandbox.running.set()
    server.retry(run)
    wait_for(lambda: server.run(run)["state_type"] in ("COMPLETED", "FAILED"), 300)
    assert server.run(run)["state"]["message"].startswith("2 stored; ")
    assert (sandbox.account.posts, sandbox.account.charged) == (2, 2)
    batches = {path.name for path in folder.iterdir()} - {"nanobanana-credits"}
    assert batches == {f"daily-{yesterday.date()}"}


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def test_lists_wait_for_each_other(
    server: Deployed, deployed: Rows, worker: object, sandbox: Sandbox, wait_for: Wait
) -> None:
    sandbox.running.clear()
    ids = [server.create_run("prompt-list", prompts=["a cat"], batch=name) for name in ("one", "two")]

    def states() -> list[str]:
        return sorted(server.run(id_)["state_name"] for id_ in ids)

    wait_for(lambda: states() == ["AwaitingConcurrencySlot", "Running"], 240)
    wait_for(lambda: sandbox.account.posts == 1, 120)
    sandbox.running.set()
    wait_for(lambda: server.ended(*ids), 300)
    assert states() == ["Completed", "Completed"]


def test_two_at_once_would_copy_the_same(
    server: Deployed,
    deployed: Rows,
    worker: object,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    folder: Path,
    wait_for: Wait,
) -> None:
    """The second `copy_pending` is cancelled while the first waits for a generation to end."""
    sandbox.running.clear()
    begun = generator.trigger("a cat")
    record = Record(
        key="0" * 24,
        prompt=ImagePrompt(prompt="a cat"),
        request=generator.request("a cat"),
        state="submitted",
        generation_id=begun.generation_id,  # type: ignore[union-attr]
        credits_used=1,
    )
    Ledger(ObjectStore(bucket), "died").write(record)
    first = server.create_run("copy-pending")
    wait_for(lambda: server.run(first)["state_name"] == "Running", 240)
    second = server.create_run("copy-pending")
    wait_for(lambda: server.ended(second), 240)
    assert server.run(second)["state_type"] == "CANCELLED"
    sandbox.running.set()
    wait_for(lambda: server.ended(first), 240)
    assert server.run(first)["state"]["message"] == "1 image copied"
    assert len(list((folder / "died/images").iterdir())) == 1


def test_served_without_a_work_pool(
    server: Deployed, saved_blocks: None, sandbox: Sandbox, folder: Path, wait_for: Wait
) -> None:
    names = ("prompt-list", "daily", "copy-pending")
    filter_ = {"deployments": {"name": {"any_": list(names)}}}
    # Prefect would leave those of a work pool in its hands.
    server.rows = None
    for row in server.post("deployments/filter", filter_):
        server.delete(f"deployments/{row['id']}")
    with _serving(server, "--max-credits", "3") as process:

        def served() -> bool:
            rows = server.post("deployments/filter", filter_)
            return len(rows) == 3 and not any(row["work_pool_name"] for row in rows)

        wait_for(served, 240)
        for name, strategy in zip(names, ("ENQUEUE", "ENQUEUE", "CANCEL_NEW"), strict=True):
            row = server.deployment(name)
            assert row["global_concurrency_limit"]["limit"] == 1
            assert row["concurrency_options"]["collision_strategy"] == strategy
        runs = [
            server.create_run("prompt-list", prompts=["a cat", "a dog", "x", "y"], batch="served"),
            server.create_run("daily", day="2026-11-23"),
        ]
        wait_for(lambda: server.ended(*runs), 300)
        # Not beside them: it would copy what they are about to copy.
        runs.append(server.create_run("copy-pending"))
        wait_for(lambda: server.ended(*runs), 300)
        messages = [server.run(id_)["state"]["message"] for id_ in runs]
        # The ceiling holds, and what is left out by it is no failure.
        assert messages[0].startswith("3 stored, 1 skipped; 3 credits used")
        assert messages[1].startswith("1 stored; 1 credit used")
        assert messages[2] == "0 images copied"
        assert len(list((folder / "daily-2026-11-23/images").iterdir())) == 1
        assert "Monday" in " ".join(row.prompt for row in sandbox.account.rows)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(120) is not None
    # Whoever moves on to a work pool finds them in its hands, and awake.
    server.prefect("work-pool", "create", "nanobanana", "--type", "process", "--overwrite")
    rows = server.deploy()
    assert {rows[name]["work_pool_name"] for name in names} == {"nanobanana"}
    assert [rows[name]["paused"] for name in names] == [False] * 3
    assert [[s["active"] for s in rows[name]["schedules"]] for name in names] == [[], [True], [True]]


@contextmanager
def _serving(server: Deployed, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve in a time zone in which it is six o'clock in the evening: nothing is due during the test."""
    offset = (18 - datetime.now(UTC).hour) % 24
    offset -= 24 if offset > 14 else 0
    zone = f"Etc/GMT{-offset:+d}" if offset else "Etc/GMT"  # whose signs are the other way round
    with (server.home / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(DEPLOYMENTS / "serve.py"), "--time-zone", zone, *arguments],
            env={**os.environ, **server.env},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


def _blocks(server: Deployed, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEPLOYMENTS / "blocks.py"), *arguments],
        env={**os.environ, **server.env, **env},
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_blocks_from_the_environment(server: Deployed, sandbox: Sandbox) -> None:
    store = ("--bucket", "pictures", "--endpoint-url", "http://127.0.0.1:9")
    done = _blocks(server, *store)
    assert done.returncode == 2
    assert "set the environment variable NANO_BANANA_API_KEY" in done.stderr
    done = _blocks(server, *store, NANO_BANANA_API_KEY=sandbox.api_key)
    assert done.returncode == 2
    assert "no key for the store: set AWS_ACCESS_KEY_ID" in done.stderr
    assert _blocks(server).returncode == 2
    keys = {"AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": "s3cret-of-the-store"}
    more = ("--low-credits", "5", "--requests-at-once", "3", "--generator-name", "art")
    done = _blocks(server, *store, *more, NANO_BANANA_API_KEY="nb_key-of-the-account", **keys)
    assert done.returncode == 0, done.stderr
    rows = server.post("block_documents/filter", {"include_secrets": False})
    (saved,) = [r for r in rows if r["name"] == "art" and "low_credits" in r["data"]]
    assert (saved["data"]["low_credits"], saved["data"]["max_concurrent_requests"]) == (5, 3)
    database = (server.home / "prefect.db").read_bytes()
    assert b"nb_key-of-the-account" not in database
    assert b"s3cret-of-the-store" not in database
