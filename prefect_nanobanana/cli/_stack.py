"""All that Prefect's UI needs on this machine: three servers, a worker, and everything deployed.

Prefect's server asks for a password, and lets no web page but its own UI read its answers: whoever may
use it may have the worker run flows.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from prefect_nanobanana.cli._notices import Notices
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3, free_port

BIN = Path(sys.executable).parent
POOL = "nanobanana"
BUCKET = "pictures"
SLOTS = 3
START_SECONDS = 240.0
STOP_SECONDS = 20.0


@dataclass
class Stack:
    """What runs.

    Attributes:
        home: Where everything is kept.
        url: Prefect's server, whose UI a browser opens.
        auth: What it asks for, as `user:password`.
        sandbox: The Nano Banana server.
        s3: The S3 server.
        env: The environment for processes that shall use the Prefect server.
        deployments: The ids of the deployments, by name.
    """

    home: Path
    url: str
    auth: str
    sandbox: Sandbox
    s3: LocalS3
    env: dict[str, str]
    deployments: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str, **more_env: str) -> str:
        """Run a command of this environment to its end.

        Raises:
            RuntimeError: If it fails; the message holds what it printed.
        """
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env={**self.env, **more_env},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def ask(self, path: str, body: Any = None) -> Any:
        """Ask Prefect's API: a GET, or a POST of a body."""
        method = "GET" if body is None else "POST"
        url = f"{self.url}/api/{path}"
        user, _, password = self.auth.partition(":")
        for _ in range(60):
            answer = httpx.request(
                method, url, json=body, auth=(user, password), timeout=60, trust_env=False
            )
            if answer.status_code != 503:  # the database is busy, and nothing happened
                break
            time.sleep(0.5)
        return answer.raise_for_status().json()

    def addresses(self) -> dict[str, Any]:
        """All that a person, or a program, needs to go on."""
        pages = f"{self.url}/v2/deployments/deployment"
        return {
            "ui": self.url,
            "api": f"{self.url}/api",
            "auth": self.auth,
            "home": str(self.home),
            "deployments": self.deployments,
            "run_forms": {name: f"{pages}/{id_}/run" for name, id_ in self.deployments.items()},
            "nano_banana": {"base_url": self.sandbox.base_url, "api_key": self.sandbox.api_key},
            "s3": {
                "endpoint_url": self.s3.endpoint_url,
                "access_key": self.s3.access_key,
                "secret_key": self.s3.secret_key,
                "bucket": BUCKET,
                "folder": str(self.s3.folder / BUCKET),
            },
        }


@contextmanager
def stack(
    home: Path,
    port: int = 0,
    blocks: bool = True,
    credits: int = 200,
    latency: tuple[float, float] = (1.0, 3.0),
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Stack]:
    """Start everything, and end it when the `with` block is left.

    Args:
        home: Where to keep the servers' files.
        port: Prefect's; the next two are those of the Nano Banana and the S3 server. 0 takes free ones.
        blocks: Whether to save the blocks that the deployments name. Without them everything is deployed
            all the same, but a run must be given blocks of its own.
        credits: The balance of the account.
        latency: The bounds of the seconds that a generation takes.
        say: Told of every step, and of what the automations send.

    Raises:
        RuntimeError: If a port is taken, or something does not start.
    """
    home = home.resolve()
    os.umask(0o077)  # what we and our processes write is nobody else's to read
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)  # an earlier version may have made it
    port, api_port, s3_port = (port, port + 1, port + 2) if port else (free_port(), 0, 0)
    url = f"http://127.0.0.1:{port}"
    for each in filter(None, (port, api_port, s3_port)):
        _must_be_free(each)
    with ExitStack() as opened:
        say("Starting a local Nano Banana server, a local S3 server and a Prefect server ...")
        sandbox = opened.enter_context(Sandbox(api_port, credits=credits, limit=SLOTS, latency=latency))
        s3 = opened.enter_context(LocalS3(home / "s3", port=s3_port))
        s3.make_bucket(BUCKET)
        auth = _auth(home)
        running = Stack(home, url, auth, sandbox, s3, _environment(home, port, auth))
        server = ("server", "start", "--host", "127.0.0.1", "--port", str(port))
        process = opened.enter_context(_background(running, "server", *server))
        _wait(lambda: _answers(url), process, home / "server.log")
        notices = opened.enter_context(Notices(lambda body: say(f"An automation says: {body}")))
        _fill(running, notices.url, blocks, say)
        worker = ("worker", "start", "--pool", POOL, "--name", "local")
        process = opened.enter_context(_background(running, "worker", *worker))
        pool = f"work_pools/{POOL}/workers/filter"
        _wait(
            lambda: any(row["status"] == "ONLINE" for row in running.ask(pool, {})),
            *(process, home / "worker.log"),
        )
        yield running


def _must_be_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise RuntimeError(f"port {port} cannot be used ({error.strerror}): try --port") from None


def _auth(home: Path) -> str:
    """What Prefect's server asks for; the same the next time, as the browser keeps it."""
    path = home / "password"
    if not path.exists():
        path.write_text(secrets.token_urlsafe(16))
    return f"nanobanana:{path.read_text().strip()}"


def _environment(home: Path, port: int, auth: str) -> dict[str, str]:
    """The user's, without any other Prefect server in it."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return {
        **env,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_PROFILES_PATH": str(home / "prefect" / "profiles.toml"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",  # the server tells it to the UI, too
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "COLUMNS": "200",
    }


def _fill(running: Stack, notices_url: str, blocks: bool, say: Callable[[str], None]) -> None:
    """Register, save and deploy, with the commands that the README names."""
    say("Registering the blocks, deploying ...")
    for module in ("prefect_nanobanana", "prefect_aws"):
        running.run("prefect", "block", "register", "-m", module)
    save = ["--webhook-url", notices_url]
    if blocks:
        save += ["--bucket", BUCKET, "--endpoint-url", running.s3.endpoint_url]
        save += ["--requests-at-once", str(SLOTS)]
    running.run(
        *("python", "-m", "prefect_nanobanana", "blocks", *save),
        NANO_BANANA_API_KEY=running.sandbox.api_key,
        NANO_BANANA_BASE_URL=running.sandbox.base_url,
        AWS_ACCESS_KEY_ID=running.s3.access_key,
        AWS_SECRET_ACCESS_KEY=running.s3.secret_key,
    )
    running.run("python", "-m", "prefect_nanobanana", "deploy")
    running.run("python", "-m", "prefect_nanobanana", "automations", "--webhook", "nanobanana")
    rows = running.ask("deployments/filter", {})
    running.deployments.update({row["name"]: row["id"] for row in rows})


@contextmanager
def _background(running: Stack, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run Prefect's command line beside us, in a process group of its own: Ctrl-C is ours to pass on."""
    with (running.home / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / "prefect"), *arguments],
            env=running.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: runs of a worker are in its process group."""
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], sign: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody of the group is left
        os.killpg(process.pid, sign)


def _answers(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/api/health", timeout=5, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def _wait(is_so: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until something is so.

    Raises:
        RuntimeError: If the process ends, or that takes too long; the message holds its log.
    """
    end = time.monotonic() + START_SECONDS
    while not is_so():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{log.stem} did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.3)
