"""Runs of the main job in processes of their own, to be stopped by signals: see test_stopping.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from forked_runs import fork_runs
from prefect import flow
from prefect_aws import S3Bucket

from prefect_nanobanana import NanoBananaGenerator
from prefect_nanobanana.flows import generate_images


@flow(name="parent")
def parent(**settings: Any) -> Any:
    """A flow of somebody's own, around the main job."""
    return generate_images(**settings)


def run(settings: dict[str, Any]) -> None:
    """Run a batch, and write what became of it into a file."""
    os.environ.update(settings.pop("env"))
    result = Path(settings.pop("result"))
    call = parent if settings.pop("inside") else generate_images
    report = call(
        **settings
        | {
            "generator": NanoBananaGenerator.model_validate(settings["generator"]),
            "bucket": S3Bucket.model_validate(settings["bucket"]),
            "fail_on": "never",
        }
    )
    result.write_text(report.model_dump_json(exclude={"outcomes"}))


if __name__ == "__main__":
    fork_runs(run, end=sys.exit)
