"""Runs that are stopped by cancelling, SIGTERM and SIGINT, and run again: one charge per prompt.

Real processes, real signals, a real worker; docs/stopping.md has a row for each test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from deployed import Deployed
from prefect_aws import S3Bucket
from servers import FaultyS3, Reply

from prefect_nanobanana import NanoBananaGenerator
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
PROMPTS = ["a", "b", "c", "d", "e", "f"]
Wait = Callable[..., None]
Said = Callable[[str], bool]


class Stoppable:
    """Runs in processes of their own; one at a time."""

    def __init__(self, process: subprocess.Popen[str], result: Path, settings: dict[str, Any]) -> None:
        self._process, self._result, self._settings = process, result, settings
        self._pid = 0

    def start(self, *, grace: float = 20, inside: bool = False, **settings: Any) -> None:
        assert self._process.stdin is not None
        env = {"NANO_BANANA_GRACE_SECONDS": str(grace)}
        more = {"result": str(self._result), "env": env, "inside": inside, "prompts": PROMPTS}
        self._process.stdin.write(json.dumps({**self._settings, **more, **settings}) + "\n")
        self._process.stdin.flush()
        self._pid = int(self._line())

    def signal(self, number: int) -> None:
        os.kill(self._pid, number)

    def end(self) -> int:
        status, self._pid = int(self._line()), 0
        return status

    def kill(self) -> None:
        """Leave nothing behind, should a test fail."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self.end()

    def run_again(self) -> dict[str, Any]:
        """Run the batch to its end."""
        self._result.unlink(missing_ok=True)
        self.start()
        assert self.end() == 0
        return dict(json.loads(self._result.read_text()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture(scope="module")
def forking(server: Deployed) -> Iterator[subprocess.Popen[str]]:
    with (
        (server.home / "runs.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests/helpers/stoppable_run.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **server.env},
        ) as process,
    ):
        yield process
        process.kill()


@pytest.fixture
def stoppable(
    forking: subprocess.Popen[str], generator: NanoBananaGenerator, bucket: S3Bucket, tmp_path: Path
) -> Iterator[Callable[..., Stoppable]]:
    made: list[Stoppable] = []

    def make(**changes: Any) -> Stoppable:
        context = {"include_secrets": True}
        generator_ = generator.model_copy(update=changes)
        settings = {
            "generator": generator_.model_dump(mode="json", context=context),
            "bucket": bucket.model_dump(mode="json", context=context),
            "batch": "b",
        }
        made.append(Stoppable(forking, tmp_path / "report.json", settings))
        return made[-1]

    yield make
    for each in made:
        each.kill()


def _slots_out(server: Deployed, generator: NanoBananaGenerator) -> int:
    """How many of the account's slots Prefect's server believes to be out."""
    name = f"nano-banana-{generator.credentials.account}"
    return int(server.get(f"v2/concurrency_limits/{name}")["active_slots"])


def _states(folder: Path) -> Counter[str]:
    records = []
    for path in (folder / "b/records").glob("*.json"):
        with suppress(FileNotFoundError):  # rclone is replacing it
            records.append(json.loads(path.read_text()))
    # The plan writes the record of one that was not asked, to see whether the bucket lets it.
    return Counter(str(record["state"]) for record in records if record["state"] != "planned")


@pytest.fixture
def said(server: Deployed) -> Said:
    """Whether a text was logged in this test."""
    began = datetime.now(UTC).isoformat()

    def look(text: str) -> bool:
        logs = server.post("logs/filter", {"logs": {"timestamp": {"after_": began}}})
        return any(text in row["message"] for row in logs)

    return look


def _progress(server: Deployed) -> str:
    """The last words of the newest progress artifact."""
    wanted = {"artifacts": {"type": {"any_": ["progress"]}}, "sort": "CREATED_DESC", "limit": 1}
    return str(server.post("artifacts/filter", wanted)[0]["description"])


def _asked_once(sandbox: Sandbox) -> None:
    assert Counter(row.prompt for row in sandbox.account.rows) == dict.fromkeys(PROMPTS, 1)
    assert (sandbox.account.posts, sandbox.account.charged) == (len(PROMPTS), len(PROMPTS))


def test_cancelled_in_the_ui_and_run_again(
    server: Deployed,
    deployed: object,
    worker: object,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    folder: Path,
    said: Said,
    wait_for: Wait,
) -> None:
    """The state that the UI's Cancel button sends, to a worker's run at 30 %."""
    sandbox.latency = (0.5, 0.5)
    run = server.create_run("prompt-list", prompts=PROMPTS, batch="b")
    wait_for(lambda: _states(folder)["stored"] >= 2, 240)
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True}
    server.post(f"flow_runs/{run}/set_state", cancelling)
    wait_for(lambda: server.run(run)["state_type"] == "CANCELLED", 120)
    assert _slots_out(server, generator) == 0
    paid = sandbox.account.posts
    assert 2 <= paid < len(PROMPTS)
    assert _states(folder) == {"stored": paid}, "what was paid is recorded and copied"
    left = f"stopped: {paid} stored, {len(PROMPTS) - paid} not asked; run the same batch again to go on"
    assert said(left)
    again = server.create_run("prompt-list", prompts=PROMPTS, batch="b")
    wait_for(lambda: server.ended(again), 240)
    assert server.run(again)["state"]["message"].startswith(f"6 stored; {6 - paid} credits used")
    _asked_once(sandbox)


@pytest.mark.parametrize("inside", [False, True], ids=["", "inside-another-flow"])
def test_sigterm_waits_for_what_is_paid(
    inside: bool,
    server: Deployed,
    stoppable: Callable[..., Stoppable],
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    folder: Path,
    said: Said,
    wait_for: Wait,
) -> None:
    run = stoppable()
    sandbox.running.clear()
    run.start(inside=inside)
    wait_for(lambda: sandbox.account.open == 1, 60)
    run.signal(signal.SIGTERM)
    wait_for(lambda: said("Stopping: waiting up to 20 s"), 60)
    sandbox.running.set()
    assert run.end() == -signal.SIGTERM
    assert _slots_out(server, generator) == 0
    assert _states(folder) == {"stored": 1}
    left = "stopped: 1 stored, 5 not asked; run the same batch again to go on"
    assert said(left)
    assert _progress(server) == left
    assert run.run_again()["stored"] == len(PROMPTS)
    _asked_once(sandbox)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_sigterm_ends_within_the_grace(
    mode: str,
    server: Deployed,
    stoppable: Callable[..., Stoppable],
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    folder: Path,
    wait_for: Wait,
) -> None:
    """What takes longer has no answer in sync mode; in async mode the next run fetches it."""
    run = stoppable(mode=mode)
    sandbox.running.clear()
    run.start(grace=1)
    begun, state = (1, "asked") if mode == "sync" else (len(PROMPTS), "submitted")
    wait_for(lambda: _states(folder)[state] == begun == sandbox.account.posts, 60)
    run.signal(signal.SIGTERM)
    assert run.end() == -signal.SIGTERM
    assert _states(folder) == {state: begun}
    assert _slots_out(server, generator) == 0
    sandbox.running.set()
    report = run.run_again()
    unknown = 1 if mode == "sync" else 0
    assert (report["stored"], report["unknown"]) == (len(PROMPTS) - unknown, unknown)
    _asked_once(sandbox)


def test_sigterm_ends_waits_that_nothing_is_paid_by(
    stoppable: Callable[..., Stoppable],
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    folder: Path,
    said: Said,
    wait_for: Wait,
) -> None:
    """A refusal that asks to come back in ten minutes, and those who wait for the slot."""
    with FaultyS3(sandbox.origin) as api:
        headers = {"Retry-After": "600", "Content-Type": "application/json"}
        refusal = Reply(b'{"error": "Too many requests"}', 429, headers)
        api.fault = lambda seen: refusal if seen.method == "POST" else None
        credentials = generator.credentials.model_copy(update={"base_url": f"{api.url}/api/v1"})
        run = stoppable(credentials=credentials)
        run.start(grace=500)
        wait_for(lambda: _states(folder)["not_charged"] == 1, 60)
        run.signal(signal.SIGTERM)
        assert run.end() == -signal.SIGTERM
    assert said("stopped: 6 not asked")
    assert _states(folder) == {"not_charged": 1}
    assert sandbox.account.posts == 0


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(
    times: int,
    server: Deployed,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    s3: LocalS3,
    sandbox: Sandbox,
    folder: Path,
    wait_for: Wait,
) -> None:
    """Once: what is paid for is waited for, and said. Twice: not, and nothing holds up the exit."""
    sandbox.running.clear()
    process = _script(server, bucket, s3, sandbox)
    wait_for(lambda: _states(folder)["asked"] == 1 == sandbox.account.posts, 120)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = ""
    while "Stopping: waiting up to 20 s" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    if times == 2:
        process.send_signal(signal.SIGINT)
    else:
        sandbox.running.set()
    said += process.communicate()[1]
    assert process.returncode == 130, said
    done = "1 without an answer" if times == 2 else "1 stored"
    assert f"stopped: {done}, 5 not asked; run the same batch again to go on" in said
    assert "Traceback" not in said
    assert _states(folder) == {"asked" if times == 2 else "stored": 1}
    assert _slots_out(server, generator) == 0


def _script(server: Deployed, bucket: S3Bucket, s3: LocalS3, sandbox: Sandbox) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "flows/prompt_list.py"), "--endpoint-url", s3.endpoint_url]
    command += ["--bucket", bucket.bucket_name, "--folder", bucket.bucket_folder, "--batch", "b"]
    for prompt in PROMPTS:
        command += ["--prompt", prompt]
    login = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    account = {"NANO_BANANA_API_KEY": sandbox.api_key, "NANO_BANANA_BASE_URL": sandbox.base_url}
    return subprocess.Popen(
        command,
        env={**os.environ, **server.env, **login, **account},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
