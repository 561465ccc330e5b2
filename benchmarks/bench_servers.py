"""What the benchmark needs around it: servers and runs, each in a process of its own on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

from prefect_nanobanana.sandbox.s3 import free_port

BUCKET = "pictures"
BIN = Path(sys.executable).parent
CHILD = Path(__file__).with_name("slots") / "slot_variants.py"
START_SECONDS = 180.0
IDLE_SECONDS = 3
IDLE_SHARE = 0.2
"""Of one core: a server that nobody asks anything looks after itself."""
HTTP = httpx.Client(trust_env=False, timeout=30)


@dataclass(frozen=True)
class Work:
    """What one process is to do.

    Attributes:
        variant: Which of the ways to do it.
        slots: How many requests the account may have open at once.
        base_url: Where the API is.
        api_key: The account's key.
        s3_url: Where the S3 server is.
        folder: Where in the bucket the pictures go; also the name of the batch and of the limit.
        prompts: What to ask for.
    """

    variant: str
    slots: int
    base_url: str
    api_key: str
    s3_url: str
    folder: str
    prompts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Servers:
    """Where the servers that all variants share are, and the environment of whoever uses them."""

    prefect_url: str
    s3_url: str
    env: Mapping[str, str]
    log: IO[str]
    prefect_process: int

    def wait_until_idle(self) -> None:
        """Wait until Prefect's server has written the events of the last cell: the next one's wait."""
        end, quiet = time.monotonic() + START_SECONDS, 0
        before = cpu_seconds(self.prefect_process)
        while quiet < IDLE_SECONDS and time.monotonic() < end:
            time.sleep(1)
            now = cpu_seconds(self.prefect_process)
            quiet = quiet + 1 if now - before < IDLE_SHARE else 0
            before = now


def cpu_seconds(process: int) -> float:
    """The seconds of CPU that a process has had."""
    stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, stat[11:13])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def prefect_server(port: str, env: Mapping[str, str], log: IO[str]) -> Iterator[int]:
    """Run a Prefect server; yields its process id."""
    command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", port]
    with running(command, env, log) as process:
        wait_for(f"http://127.0.0.1:{port}/api/health", process)
        yield process.pid


@contextmanager
def servers(home: Path, *, log_requests: bool = False) -> Iterator[Servers]:
    """Run a Prefect server and an S3 server (moto, which honours conditional writes).

    Args:
        home: A folder of theirs.
        log_requests: Whether Prefect's server, too, logs each request: into `prefect.log`.
    """
    prefect, s3 = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    env = environment(home, f"{prefect}/api")
    with ExitStack() as stack:
        log = stack.enter_context((home / "processes.log").open("w"))
        moto_log = stack.enter_context((home / "moto.log").open("w"))
        command = [sys.executable, "-m", "moto.server", "-p", s3.rpartition(":")[2]]
        moto = stack.enter_context(running(command, env, moto_log))
        prefect_log = stack.enter_context((home / "prefect.log").open("w"))
        level = {"PREFECT_SERVER_LOGGING_LEVEL": "INFO"} if log_requests else {}
        port = prefect.rpartition(":")[2]
        process = stack.enter_context(prefect_server(port, {**env, **level}, prefect_log))
        wait_for(s3, moto)
        HTTP.put(f"{s3}/{BUCKET}").raise_for_status()
        try:
            yield Servers(prefect, s3, env, log, process)
        except Exception:
            for name in ("prefect.log", "processes.log"):
                print((home / name).read_text()[-5000:], file=sys.stderr)
            raise


class Api:
    """A Nano Banana server with one account, seen from outside."""

    def __init__(self, base_url: str, key: str) -> None:
        self.base_url = base_url
        self.key = key

    def books(self) -> dict[str, Any]:
        """What the server says of the account."""
        url = f"{self.base_url.removesuffix('/api/v1')}/sandbox/books"
        return dict(HTTP.get(url).raise_for_status().json())


@contextmanager
def api_server(around: Servers, name: str, slots: int, latency: float) -> Iterator[Api]:
    """Run a Nano Banana server with an account of its own, which has as many slots as said."""
    key = f"nb_{name}"
    command = [sys.executable, "-m", "prefect_nanobanana.sandbox", "--port", "0", "--key", key]
    command += ["--limit", str(slots), "--latency", str(latency), "--pixels", "64"]
    with running([*command, "--credits", "1000000"], around.env, around.log, talks=True) as process:
        yield Api(line(process).partition("=")[2], key)


class Child:
    """A run in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def wait_until_ready(self) -> None:
        """Wait until it has imported all that it needs."""
        line(self._process)

    def go(self) -> None:
        """Let it begin; what it waits for has been imported."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """Kill it, as a machine does that runs out of memory."""
        self._process.kill()
        self._process.wait(30)

    def result(self) -> dict[str, Any]:
        """Wait for its end; returns what it says of itself."""
        return dict(json.loads(line(self._process)))


@contextmanager
def child(around: Servers, work: Work) -> Iterator[Child]:
    """Start a process that does some work once it is told to go."""
    with script(CHILD, work, around.env, around.log) as started:
        yield started


@contextmanager
def script(path: Path, work: Any, env: Mapping[str, str], log: IO[str]) -> Iterator[Child]:
    """Start a script whose argument is a dataclass, as JSON."""
    command = [sys.executable, str(path), json.dumps(asdict(work))]
    with running(command, env, log, talks=True) as process:
        yield Child(process)


def environment(home: Path, prefect_api: str) -> dict[str, str]:
    """The environment of all processes: nothing in it leads beyond this machine."""
    ours = ("NANO_BANANA_", "NB_API_", "PREFECT_", "AWS_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ours) and not name.lower().endswith("_proxy")
    }
    return {
        **kept,
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_API_URL": prefect_api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        # A proxy that is not there keeps whatever looks for the web on this machine.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost,::1",
    }


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], log: IO[str], *, talks: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Run a process, and end it and all that it started; one that talks has pipes for it."""
    with subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
        stdout=subprocess.PIPE if talks else log,
        stderr=log,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, how)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            continue


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until a server answers that has just been started."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if HTTP.get(url).status_code < 500:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise RuntimeError(f"no answer from {url}: see the logs")


def line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line that a process prints."""
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    if not said:
        raise RuntimeError(f"process {process.pid} ended with {process.wait(30)}: see the logs")
    return said
