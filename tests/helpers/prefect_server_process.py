"""A Prefect server in a process of its own, with a home of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
from prefect_database import NAME, put_database

from prefect_nanobanana.sandbox.s3 import free_port

BIN = Path(sys.executable).parent
NO_WEB = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost,::1"}
"""A server looks for a newer list of worker types on the web, and takes its own when that fails: a proxy
that is not there keeps the look-up on this machine."""


class PrefectServer:
    """Use it as a context manager.

    Args:
        home: Where it keeps its database.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            "PREFECT_HOME": str(home),
            "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_UI_API_URL": f"{self.url}/api",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "COLUMNS": "200",
            **NO_WEB,
        }
        self._log = (home / "server.log").open("w")
        # One client for all requests: each new one takes longer than the request.
        self._http = httpx.Client(timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._http.close()
        self._log.close()

    def start(self) -> None:
        """Start it, anew if need be: its database stays, what it had in memory does not."""
        put_database(self.home / NAME)
        self._process = self.spawn("server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        self.wait_for_health(self._process, self.url)

    def stop(self) -> None:
        """End it."""
        end_process(self._process)

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Prefect's command line as a server, which writes into `server.log`."""
        return subprocess.Popen(
            [str(BIN / "prefect"), *arguments],
            env={**os.environ, **self.env},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for_health(self, process: subprocess.Popen[bytes], url: str) -> None:
        """Wait until an API answers."""
        end = time.monotonic() + 180
        while time.monotonic() < end and process.poll() is None:
            try:
                if self._http.get(f"{url}/api/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.5)
        raise RuntimeError((self.home / "server.log").read_text())

    def prefect(self, *arguments: str) -> str:
        """Run Prefect's command line to its end."""
        return self._run([str(BIN / "prefect"), *arguments])

    def python(self, code: str, stdin: str = "") -> str:
        """Run Python code to its end."""
        return self._run([sys.executable, "-c", code], stdin)

    def _run(self, command: list[str], stdin: str = "") -> str:
        done = subprocess.run(
            command,
            env={**os.environ, **self.env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run Prefect's command line in the background."""
        with (self.home / "process.log").open("ab") as log:
            process = subprocess.Popen(
                [str(BIN / "prefect"), *arguments],
                env={**os.environ, **self.env},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                end_process(process)

    def get(self, path: str) -> Any:
        """Read from the API."""
        return self._ask("GET", path).json()

    def post(self, path: str, body: Any) -> Any:
        """Ask the API."""
        answer = self._ask("POST", path, body)
        return answer.json() if answer.content else None

    def patch(self, path: str, body: Any) -> None:
        """Change something by the API."""
        self._ask("PATCH", path, body)

    def delete(self, path: str) -> None:
        """Remove something by the API."""
        self._ask("DELETE", path)

    def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Ask as Prefect's own client does: 503 says that the database is busy, and nothing happened."""
        end = time.monotonic() + 60
        while True:
            answer = self._http.request(method, f"{self.url}/api/{path}", json=body)
            if answer.status_code != 503 or time.monotonic() > end:
                return answer.raise_for_status()
            time.sleep(0.5)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    except ProcessLookupError:
        process.wait(10)
