"""The DuckDB example as its users have it: a deployment that the event of a finished run starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deployed import Deployed

from prefect_nanobanana.sandbox import Sandbox

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).parents[2] / "flows/to_duckdb.py"
COUNTS = "select batch, count(*) from images group by batch order by batch"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "pictures.duckdb"


@pytest.fixture
def served(
    server: Deployed, deployed: Any, database: Path, wait_for: Callable[..., None]
) -> Iterator[subprocess.Popen[bytes]]:
    """The script, which serves the deployment."""
    command = [sys.executable, str(SCRIPT), str(database), "--bucket", "nanobanana", "--serve"]
    with subprocess.Popen(command, env={**os.environ, **server.env}) as process:
        named = {"deployments": {"name": {"any_": ["warehouse"]}}}
        wait_for(lambda: server.post("deployments/filter", named), 120)
        yield process
        process.terminate()


def _counts(database: Path) -> list[tuple[Any, ...]]:
    try:
        with duckdb.connect(str(database), read_only=True) as connection:
            return connection.execute(COUNTS).fetchall()
    except duckdb.Error:  # not there yet, or being written
        return []


def test_two_days_one_resumed(
    server: Deployed,
    served: subprocess.Popen[bytes],
    worker: subprocess.Popen[bytes],
    database: Path,
    sandbox: Sandbox,
    wait_for: Callable[..., None],
) -> None:
    def day(which: str, *prompts: str) -> None:
        id_ = server.create_run("daily", day=which, prompts=list(prompts))
        wait_for(lambda: server.ended(id_), 240)
        assert server.run(id_)["state_type"] == "COMPLETED", server.run(id_)["state"]["message"]

    day("2026-11-24", "a", "b")
    wait_for(lambda: _counts(database) == [("daily-2026-11-24", 2)], 180)
    day("2026-11-25", "a")
    day("2026-11-24", "a", "b", "c")
    whole = [("daily-2026-11-24", 3), ("daily-2026-11-25", 1)]
    wait_for(lambda: _counts(database) == whole, 180)
    with duckdb.connect(str(database), read_only=True) as connection:
        sql = "select distinct flow, deployment, credits_used, status from prompts"
        assert connection.execute(sql).fetchall() == [("daily_images", "daily", 1.0, "stored")]
        (charged,) = connection.execute("select sum(credits_used) from prompts").fetchone() or ()
    assert charged == sandbox.account.charged == 4
    runs = server.post("flow_runs/filter", {"flows": {"name": {"any_": ["to_duckdb"]}}})
    assert {run["state_type"] for run in runs} <= {"COMPLETED", "SCHEDULED", "PENDING", "RUNNING"}
    assert all(run["created_by"]["type"] == "AUTOMATION" for run in runs)
