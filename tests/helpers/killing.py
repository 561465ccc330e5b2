"""Runs in processes of their own, killed for real."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import prefect.settings
import pytest
from prefect_aws import S3Bucket
from servers import Reply, Seen

from prefect_nanobanana import NanoBananaGenerator, RunFailed, RunReport
from prefect_nanobanana.flows import generate_images

SCRIPT = Path(__file__).with_name("killed_run.py")


class Killer:
    """Kills a run at its n-th step: `before` the server sees the request, or `after` it has acted."""

    def __init__(self, at: int, when: str) -> None:
        self._left = at
        self._when = when
        self._lock = threading.Lock()
        self._armed = threading.Event()
        self._process = 0
        self.killed = False

    def arm(self, process: int) -> None:
        """Say whom to kill."""
        self._process = process
        self._armed.set()

    def __call__(self, seen: Seen) -> Reply | None:
        if seen.method == "GET" and "list-type" not in seen.path and "?id=" not in seen.path:
            return None  # reading changes nothing
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return None
            self.killed = True
        if self._when == "before":
            self.kill()
            return Reply(reset=True)
        return None

    def after(self) -> None:
        """The store has acted on a request."""
        if self.killed and self._when == "after":
            self.kill()

    def kill(self) -> None:
        """Kill the run."""
        assert self._armed.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)


@pytest.fixture
def zygote(prefect_server: None) -> Iterator[subprocess.Popen[str]]:
    """Starts runs in processes of their own, against the session's Prefect server."""
    with new_zygote() as process:
        yield process


@contextlib.contextmanager
def new_zygote() -> Iterator[subprocess.Popen[str]]:
    """One more of them: each has one run at a time."""
    with subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PREFECT_API_URL": str(prefect.settings.PREFECT_API_URL.value())},
    ) as process:
        yield process
        process.kill()


def run_and_kill(
    zygote: subprocess.Popen[str],
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    killer: Killer,
    prompts: Sequence[str],
    fallback_models: Sequence[str] = (),
) -> bool:
    """Run in a process of its own until it ends or is killed; say whether it ended well."""
    context = {"include_secrets": True}
    settings = {
        "prompts": list(prompts),
        "fallback_models": list(fallback_models),
        "generator": generator.model_dump(mode="json", context=context),
        "bucket": bucket.model_dump(mode="json", context=context),
    }
    killer.arm(start(zygote, settings))
    return ended_well(zygote)


def start(zygote: subprocess.Popen[str], settings: dict[str, Any]) -> int:
    """Start a run; returns its process id."""
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    zygote.stdin.write(json.dumps(settings) + "\n")
    zygote.stdin.flush()
    return int(zygote.stdout.readline())


def ended_well(zygote: subprocess.Popen[str]) -> bool:
    """Wait for its end; whether it came to that by itself."""
    assert zygote.stdout is not None
    return int(zygote.stdout.readline()) == 0


def run_here(
    generator: NanoBananaGenerator, bucket: S3Bucket, prompts: Sequence[str], **changes: Any
) -> RunReport:
    """Run the same batch in this process."""
    settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "batch": "b", **changes}
    try:
        report: RunReport = generate_images(prompts=list(prompts), fail_on="never", **settings)
    except RunFailed as error:
        report = error.report
    return report
