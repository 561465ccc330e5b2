"""A Prefect server with everything of `deployments/prefect.yaml` on it, as its users have it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_aws import S3Bucket
from prefect_server_process import PrefectServer

from prefect_nanobanana import NanoBananaGenerator

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Deployed(PrefectServer):
    """A server whose deployments can be run.

    Attributes:
        rows: Its deployments by name, as they were deployed.
    """

    rows: dict[str, dict[str, Any]] | None = None

    def deploy(self, prefect_file: Path = DEPLOYMENTS / "prefect.yaml") -> dict[str, dict[str, Any]]:
        """As the README says. Then the schedules are switched off: six o'clock must find no test.

        Returns:
            The deployments by name, as they were deployed.
        """
        self.prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(prefect_file))
        rows = self.post("deployments/filter", {})
        for row in rows:
            for schedule in row["schedules"]:
                self.patch(f"deployments/{row['id']}/schedules/{schedule['id']}", {"active": False})
        self.rows = {row["name"]: row for row in rows}
        return self.rows

    def deployment(self, name: str) -> dict[str, Any]:
        """One of them, by its name alone."""
        (row,) = self.post("deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        return dict(row)

    def create_run(self, name: str, at: datetime | None = None, **parameters: Any) -> str:
        """As the form of the UI does, or the scheduler.

        Returns:
            The flow run's id.
        """
        body: dict[str, Any] = {"parameters": parameters}
        if at is not None:
            details = {"scheduled_time": at.isoformat()}
            body["state"] = {"type": "SCHEDULED", "state_details": details}
        path = f"deployments/{self.deployment(name)['id']}/create_flow_run"
        return str(self.post(path, body)["id"])

    def run(self, id_: str) -> dict[str, Any]:
        """A flow run."""
        return dict(self.get(f"flow_runs/{id_}"))

    def worker_is_done_with(self, id_: str) -> bool:
        """Whether the worker has said that a flow run's process has ended, its last word on it."""
        filter_ = {
            "event": {"name": ["prefect.worker.executed-flow-run"]},
            "related": {"id": [f"prefect.flow-run.{id_}"]},
        }
        return bool(self.post("events/filter", {"filter": filter_})["events"])

    def ended(self, *ids: str) -> bool:
        """Whether all of them have come to an end."""
        return all(self.run(id_)["state_type"] in FINAL for id_ in ids)

    def retry(self, id_: str) -> None:
        """What the button in the UI sends."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the Prefect UI"}
        self.post(f"flow_runs/{id_}/set_state", {"state": state})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with Deployed(tmp_path_factory.mktemp("prefect")) as running:
        yield running


@pytest.fixture
def save_blocks(server: Deployed) -> Callable[[NanoBananaGenerator, S3Bucket], None]:
    def save(generator: NanoBananaGenerator, bucket: S3Bucket) -> None:
        with temporary_settings({PREFECT_API_URL: f"{server.url}/api"}):
            generator.credentials.save("default", overwrite=True)
            generator.save("default", overwrite=True)
            bucket.credentials.save("store", overwrite=True)
            bucket.save("nanobanana", overwrite=True)

    return save


@pytest.fixture
def saved_blocks(
    save_blocks: Callable[..., None], generator: NanoBananaGenerator, bucket: S3Bucket
) -> None:
    save_blocks(generator, bucket)


@pytest.fixture
def deployed(server: Deployed, saved_blocks: None) -> dict[str, dict[str, Any]]:
    if server.rows is None:
        server.prefect("work-pool", "create", "nanobanana", "--type", "process", "--overwrite")
        server.deploy()
    assert server.rows is not None
    return server.rows


@pytest.fixture(scope="module")
def worker(server: Deployed) -> Iterator[subprocess.Popen[bytes]]:
    """Waits for a work pool of this name, if there is none yet."""
    with server.process("worker", "start", "--pool", "nanobanana", "--type", "process") as process:
        yield process
