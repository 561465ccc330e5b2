"""What is promised of every run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from prefect_nanobanana import RunReport
from prefect_nanobanana.sandbox import Sandbox


def statuses(report: RunReport) -> list[str]:
    return [outcome.status for outcome in report.outcomes]


def adds_up(report: RunReport, sandbox: Sandbox, folder: Path) -> None:
    """What is promised of every run: counts, credits and bytes."""
    counts = [report.stored, report.warnings, report.failed, report.unknown, report.skipped]
    assert sum(counts) == report.prompts == len(report.outcomes)
    assert [o.position for o in report.outcomes] == list(range(1, report.prompts + 1))
    paid_for = [row.prompt for row in sandbox.account.rows]
    asked = [o.prompt.prompt for o in report.outcomes]
    for prompt in set(paid_for):
        assert paid_for.count(prompt) <= max(1, asked.count(prompt)), f"paid twice for {prompt!r}"
    manifest = [
        json.loads(row)
        for row in (folder / report.batch / "manifest.jsonl").read_text("utf-8").splitlines()
    ]
    assert [row["status"] for row in manifest][: report.prompts] == statuses(report)
    served = {hashlib.sha256(content).hexdigest() for content in sandbox.images.values()}
    named = [image for row in manifest for image in row.get("images", [])]
    for image in named:
        content = (folder.parent / image["key"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == image["sha256"]
        assert image["sha256"] in served
    on_disk = [p for p in (folder / report.batch / "images").rglob("*") if p.is_file()]
    assert len(on_disk) == len(named) >= report.images
