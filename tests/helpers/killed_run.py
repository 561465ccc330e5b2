"""Runs of the main job in processes of their own, to be killed: see test_killed.py."""

from __future__ import annotations

import os
from typing import Any

from forked_runs import fork_runs
from prefect_aws import S3Bucket

from prefect_nanobanana import NanoBananaGenerator
from prefect_nanobanana.flows import generate_images


def run(settings: dict[str, Any]) -> None:
    """Run a batch."""
    generate_images(
        prompts=settings["prompts"],
        generator=NanoBananaGenerator.model_validate(settings["generator"]),
        bucket=S3Bucket.model_validate(settings["bucket"]),
        batch="b",
        fail_on="never",
    )


if __name__ == "__main__":
    fork_runs(run, end=os._exit)
