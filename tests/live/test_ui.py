"""`make ui`: everything on this machine, ready to click, and nothing of it left afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployed import DEPLOYMENTS
from kept_private import only_for_its_own_page, only_the_owners, processes_of
from prefect_server_process import NO_WEB

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
NAMES = {"prompt-list", "daily", "copy-pending", "in-parts", "part", "publish-batches", "review"}
NAMES |= {"retention"}


@contextmanager
def _started(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    with (home.parent / "stderr.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(DEPLOYMENTS / "ui.py"), "--json", "--home", str(home), *arguments],
            env={**os.environ, **NO_WEB},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, (home.parent / "stderr.txt").read_text()
            yield process, json.loads(line)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(90)
            process.stdout.close()


def _ask(told: dict[str, Any], path: str, body: Any = None) -> Any:
    method = "GET" if body is None else "POST"
    user, _, password = told["auth"].partition(":")
    for _ in range(60):
        url = f"{told['api']}/{path}"
        answer = httpx.request(method, url, json=body, auth=(user, password), timeout=60)
        if answer.status_code != 503:
            break
        time.sleep(0.5)
    return answer.raise_for_status().json()


def test_one_command(tmp_path: Path, wait_for: Callable[..., None]) -> None:
    home = tmp_path / "ui"
    home.mkdir(mode=0o755)  # as earlier versions made it
    with _started(home, "--port", "0") as (process, told):
        api = told["api"]
        only_for_its_own_page(told["ui"])
        assert only_the_owners(home) > 5
        assert set(told["deployments"]) == set(told["run_forms"]) == NAMES
        # The page that a person opens, and where it asks.
        page = httpx.get(told["run_forms"]["prompt-list"], headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert "<html" in page.text
        assert httpx.get(f"{told['ui']}/ui-settings").json()["api_url"] == api
        blocks = {row["name"] for row in _ask(told, "block_documents/filter", {})}
        assert {"default", "nanobanana"} <= blocks
        slugs = {row["slug"] for row in _ask(told, "block_types/filter", {})}
        assert {"nano-banana-generator", "nano-banana-credentials", "s3-bucket"} <= slugs
        automations = _ask(told, "automations/filter", {})
        assert len([row for row in automations if row["name"].startswith("Nano Banana")]) == 4

        def start(**parameters: Any) -> str:
            path = f"deployments/{told['deployments']['prompt-list']}/create_flow_run"
            return str(_ask(told, path, {"parameters": parameters})["id"])

        def state(id_: str) -> dict[str, Any]:
            return dict(_ask(told, f"flow_runs/{id_}")["state"])

        # What fails is told by an automation, to whoever sits before the terminal.
        wrong = start(prompts_from="/no/such/file.csv")
        log = tmp_path / "stderr.txt"
        wait_for(lambda: state(wrong)["type"] == "FAILED", 240)
        wait_for(lambda: "An automation says" in log.read_text(), 120)
        assert "Nano Banana: a run failed" in log.read_text()
        # Ended in the midst of a run.
        busy = start(prompts=[f"number {n}" for n in range(40)], batch="busy", max_credits=None)
        wait_for(lambda: state(busy)["type"] == "RUNNING", 240)
        lines = processes_of(home / "prefect")
        assert any("prefect.engine" in line or "flow_run" in line for line in lines)
        images = Path(told["s3"]["folder"]) / "busy/images"
        wait_for(lambda: images.is_dir() and any(images.iterdir()), 240)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)  # impatience changes nothing
        assert process.wait(90) == 0
    assert processes_of(home) == []


def test_ended_while_it_starts(tmp_path: Path, wait_for: Callable[..., None]) -> None:
    home = tmp_path / "ui"
    process = subprocess.Popen(
        [sys.executable, str(DEPLOYMENTS / "ui.py"), "--home", str(home), "--port", "0"],
        env={**os.environ, **NO_WEB},
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: any("server start" in line for line in processes_of(home)), 120)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Everything has ended." in out
    assert processes_of(home) == []


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, str(DEPLOYMENTS / "ui.py"), "--home", str(tmp_path / "ui"), "--port", port],
            env={**os.environ, **NO_WEB},
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 1
    assert f"port {port} cannot be used" in done.stderr
    assert processes_of(tmp_path / "ui") == []
