"""Debian's PostgreSQL and Redis on this machine, on loopback alone; they are gone when the tests are."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from started import Started

from prefect_nanobanana.sandbox.s3 import free_port

PACKAGES = "postgresql redis-server"
START_SECONDS = 60.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # Nothing must outlive the tests.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}
_FOLDERS = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)


def _program(name: str) -> str | None:
    """Where a program is; Debian does not put PostgreSQL's on PATH."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_FOLDERS))


MISSING = [name for name in ("initdb", "postgres", "psql", "redis-server") if _program(name) is None]


class _Server(Started):
    """A server in a process of its own. Use it as a context manager."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.port = free_port()
        self._home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-")))
        self._log = self._home / "log"
        self._as: dict[str, Any] = {}

    def _run(self, stack: ExitStack, *command: str, stop: signal.Signals) -> None:
        """Start the server, and wait until it listens."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self._home, stdout=log, stderr=log, start_new_session=True, **self._as
            )
        stack.callback(_end, process, stop)
        end = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(
            f"{command[0]} did not start: {self._log.read_text(errors='replace')[-2000:]}"
        )


class Postgres(_Server):
    """A PostgreSQL server with a database `prefect`."""

    def __init__(self) -> None:
        super().__init__("postgres")

    @property
    def url(self) -> str:
        """The database's address, as Prefect takes it."""
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/prefect"

    def query(self, sql: str) -> list[list[str]]:
        """Ask the database with `psql`; rows of text."""
        login = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "prefect", "-d", "prefect")
        command = (str(_program("psql")), *login, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1")
        done = subprocess.run([*command, "-c", sql], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return [line.split("|") for line in done.stdout.splitlines()]

    def _start(self, stack: ExitStack) -> None:
        if os.getuid() == 0:  # as whom PostgreSQL refuses to run
            user = pwd.getpwnam("postgres")
            os.chown(self._home, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data = str(self._home / "data")
        subprocess.run(
            [str(_program("initdb")), "-D", data, "-U", "prefect", "--auth=trust", "-E", "UTF8"],
            cwd=self._home,
            check=True,
            capture_output=True,
            timeout=START_SECONDS,
            **self._as,
        )
        options = [f"--{name}={value}" for name, value in SETTINGS.items()]
        # SIGINT has it end at once, and not wait for whoever is connected.
        postgres = (str(_program("postgres")), "-D", data, "-p", str(self.port), *options)
        self._run(stack, *postgres, stop=signal.SIGINT)
        self._make_database()

    def _make_database(self) -> None:
        login = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "prefect")
        end = time.monotonic() + START_SECONDS
        while True:
            done = subprocess.run(
                [str(_program("createdb")), *login, "prefect"], capture_output=True, text=True
            )
            if done.returncode == 0:
                return
            if time.monotonic() > end:
                raise RuntimeError(done.stderr)
            time.sleep(0.1)  # it listens before it takes anybody in


class Redis(_Server):
    """A Redis server that keeps everything in memory."""

    def __init__(self) -> None:
        super().__init__("redis")

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}"

    def _start(self, stack: ExitStack) -> None:
        settings = ("--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no")
        self._run(stack, str(_program("redis-server")), *settings, stop=signal.SIGTERM)


def _end(process: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    """End a server and all that it started."""
    try:
        process.send_signal(stop)
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
