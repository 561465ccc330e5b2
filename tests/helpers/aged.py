"""Batches that are older than they are: a local S3 server says of an object what its file says."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from prefect_nanobanana.sandbox.s3 import LocalS3


def refresh(s3: LocalS3) -> None:
    """Have the server look at its files again, which were written behind its back."""
    assert s3._process is not None
    s3._process.send_signal(signal.SIGHUP)
    time.sleep(0.2)


def age(s3: LocalS3, folder: Path, days: float) -> None:
    """Have everything in a folder written some days ago."""
    then = time.time() - days * 86_400
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))
    refresh(s3)


def rows(folder: Path, name: str = "images.jsonl") -> list[dict[str, Any]]:
    """The lines of a file of the batch in a folder."""
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def decide(folder: Path, **picked: bool) -> None:
    """Write what a review would have, of images by their prompts, in the year 2020."""
    lines = [
        {
            "batch": folder.name,
            **{name: row[name] for name in ("prompt_key", "place", "key", "sha256")},
            "picked": picked[row["prompt_text"]],
            "decided_at": "2020-01-01T00:00:00Z",
        }
        for row in rows(folder)
        if row["prompt_text"] in picked
    ]
    (folder / "picks.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
