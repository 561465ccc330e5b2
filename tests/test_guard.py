"""The guard itself: without it, "no packet leaves this machine" would be a hope."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sitecustomize import OutsideLoopback, allowed


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "x.localhost", b"127.0.0.1"]
)
def test_loopback_is_allowed(host: str | bytes) -> None:
    assert allowed(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "8.8.8.8", "example.com", "fe80::1%lo"])
def test_everything_else_is_not(host: str) -> None:
    assert not allowed(host)


def test_this_process_is_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NANOBANANA_GUARD_REPORT")
    with pytest.raises(OutsideLoopback):
        socket.getaddrinfo("example.com", 443)
    with socket.socket() as one, pytest.raises(OutsideLoopback):
        one.connect(("192.0.2.1", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as one, pytest.raises(OutsideLoopback):
        one.sendto(b"x", ("192.0.2.1", 53))


def test_processes_that_tests_start_are_guarded_and_tell_on_it(tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 80))\nexcept OSError: print('no')"
    env = {**os.environ, "NANOBANANA_GUARD_REPORT": str(report)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert out.stdout == "no\n", out.stderr
    assert "192.0.2.1" in report.read_text()
