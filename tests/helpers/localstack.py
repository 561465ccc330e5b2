"""Localstack's S3 on this machine: the one store here that checks the checksums it is sent.

One process, from an environment of its own, as what it needs would clash with what we need. It takes any
credentials, speaks http and https at one port, listens on 127.0.0.1, and is gone when the tests are. Our
guard is loaded into it, too, so that nothing of it leaves this machine unnoticed.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import trustme
from started import Started

from prefect_nanobanana.sandbox.s3 import free_port

ROOT = Path(__file__).parents[2]
INSTALLED = ".venv-localstack/.ready"
START_SECONDS = 120.0
MISSING = ""
if not (ROOT / INSTALLED).exists():
    MISSING = f"localstack is not installed: make {INSTALLED}"

MAIN = """
import functools
from twisted.internet import endpoints
# As it comes, it listens on all addresses, whatever GATEWAY_LISTEN says.
endpoints.TCP4ServerEndpoint = functools.partial(endpoints.TCP4ServerEndpoint, interface="127.0.0.1")
from localstack.utils.aws import aws_stack
# As it comes, it asks a name server for an address of its makers.
aws_stack.CACHE_S3_HOSTNAME_DNS_STATUS = False
from localstack.runtime.main import main
main()
"""
SETTINGS = {
    "SERVICES": "s3",
    "STRICT_SERVICE_LOADING": "1",
    "EAGER_SERVICE_LOADING": "1",
    "DISABLE_EVENTS": "1",  # it would tell its makers how it is used
    "SKIP_SSL_CERT_DOWNLOAD": "1",
    "DNS_ADDRESS": "0",  # no name server of its own
    "OVERRIDE_IN_DOCKER": "0",  # its files stay in the folders below, in a container, too
    "GATEWAY_WORKER_COUNT": "64",
}


class LocalStack(Started):
    """A store of one process. Use it as a context manager.

    Args:
        home: A folder of its own.
    """

    def __init__(self, home: Path) -> None:
        super().__init__()
        self._home = home
        self.port = free_port()
        self.authority = home / "authority.pem"
        """Who signed its certificate."""

    @property
    def endpoint_url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        """Where it answers over TLS."""
        return f"https://127.0.0.1:{self.port}"

    def _start(self, stack: ExitStack) -> None:
        authority, certificate = trustme.CA(), self._home / "server.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        with (self._home / "process.log").open("w") as log:
            process = subprocess.Popen(
                [ROOT / ".venv-localstack/bin/python", "-c", MAIN],
                cwd=self._home,
                env=self._environment(certificate),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        stack.callback(process.wait, 20)
        stack.callback(process.kill)
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if process.poll() is not None or time.monotonic() > end:
                log_text = (self._home / "process.log").read_text(errors="replace")
                raise RuntimeError(f"localstack did not start: {log_text[-3000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        url = f"{self.endpoint_url}/_localstack/health"
        try:
            told = httpx.get(url, timeout=5, trust_env=False).json()
        except httpx.HTTPError:
            return False
        return bool(told["services"]["s3"] == "running")

    def _environment(self, certificate: Path) -> dict[str, str]:
        """Nothing of ours but the guard; folders and certificate of its own."""
        temporary = self._home / "tmp"
        temporary.mkdir()
        return {
            **SETTINGS,
            "PATH": os.defpath,
            "PYTHONPATH": str(ROOT / "tests/guard"),
            "NANOBANANA_GUARD_REPORT": os.environ["NANOBANANA_GUARD_REPORT"],
            "HOME": str(self._home),
            "TMPDIR": str(temporary),
            "CONFIG_DIR": str(self._home),
            "FILESYSTEM_ROOT": str(self._home / "files"),
            "CUSTOM_SSL_CERT_PATH": str(certificate),
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
        }
