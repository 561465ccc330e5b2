"""The deployment as its users run it: a Prefect server, a worker, blocks, a schedule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployed import Deployed
from prefect_aws import S3Bucket

from prefect_nanobanana import ImagePrompt, NanoBananaGenerator
from prefect_nanobanana._s3 import Bucket
from prefect_nanobanana.ledger import Ledger, Record
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.server


def test_deployed_and_run_by_a_worker(
    server: Deployed,
    deployed: None,
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
    with server.process("worker", "start", "--pool", "nanobanana"):
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
    server: Deployed, deployed: None, sandbox: Sandbox, wait_for: Callable[..., None]
) -> None:
    """Without a batch name: the flow run, and so its batch, stays the same."""
    sandbox.faults.queue(None, "400")
    prompts = json.dumps(["x", "nude", "z"])
    server.prefect("deployment", "run", "generate_images/prompt-list", "-p", f"prompts={prompts}")

    def ours() -> list[Any]:
        runs = _final(server, None)
        return [run for run in runs if run["parameters"].get("prompts", [""])[0] == "x"]

    with server.process("worker", "start", "--pool", "nanobanana"):
        wait_for(lambda: [run["state_type"] for run in ours()] == ["FAILED"], 120)
        (run,) = ours()
        assert "1 failed" in run["state"]["message"]
        # What the button in the UI sends.
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the Prefect UI"}
        server.post(f"flow_runs/{run['id']}/set_state", {"state": state})
        wait_for(lambda: [run["state_type"] for run in ours()] == ["COMPLETED"], 120)
    (run,) = ours()
    assert run["state"]["message"] == "2 stored, 1 warning; 1 credit used, 2 paid earlier, 97 left"
    assert (sandbox.account.posts, sandbox.account.charged) == (4, 3)


def _final(server: Deployed, *batches: str | None) -> list[dict[str, Any]]:
    """The deployment's runs of these batches that have come to an end."""
    runs = server.post("flow_runs/filter", {"flow_runs": {"deployment_id": {"is_null_": False}}})
    return [
        run
        for run in runs
        if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")
        and run["parameters"].get("batch") in batches
    ]


def test_pending_images_are_copied_by_the_other_deployment(
    server: Deployed,
    deployed: None,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    folder: Path,
    wait_for: Callable[..., None],
) -> None:
    """An async generation was begun, and recorded, by a run that died."""
    run = generator.trigger("a cat")
    record = Record(
        key="0" * 24,
        prompt=ImagePrompt(prompt="a cat"),
        request=generator.request("a cat"),
        state="submitted",
        generation_id=run.generation_id,  # type: ignore[union-attr]
        credits_used=1,
    )
    Ledger(Bucket(bucket), "died").write(record)
    server.prefect("deployment", "run", "copy_pending/copy-pending")

    def ours() -> list[Any]:
        return [run for run in _final(server, None) if "prompts" not in run["parameters"]]

    with server.process("worker", "start", "--pool", "nanobanana"):
        wait_for(lambda: len(ours()) == 1, 120)
    assert ours()[0]["state"]["message"] == "1 image copied"
    assert len(list((folder / "died/images").iterdir())) == 1
    assert sandbox.account.posts == 1


def test_a_missing_block_is_said(server: Deployed) -> None:
    """The worker's log is all that a person has then; the flow itself never starts."""
    code = "from prefect_nanobanana import NanoBananaGenerator as G; G.load('no-such')"
    failed = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **server.env}, capture_output=True, text=True
    )
    assert "no-such" in failed.stderr


def test_registering_the_blocks(server: Deployed) -> None:
    out = server.prefect("block", "register", "-m", "prefect_nanobanana")
    assert "Nano Banana Credentials" in out
    assert "Nano Banana Generator" in out
    slugs = {row["slug"] for row in server.post("block_types/filter", {})}
    assert {"nano-banana-credentials", "nano-banana-generator"} <= slugs


def test_the_server_is_ours(server: Deployed) -> None:
    assert httpx.get(f"{server.url}/api/health").json() is True
    assert time.time() > 0
