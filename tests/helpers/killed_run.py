"""Runs of the main job in processes of their own, to be killed: see test_killed.py."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from forked_runs import fork_runs
from prefect_aws import S3Bucket

from prefect_nanobanana import NanoBananaGenerator
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.budgets._grants import TIMES
from prefect_nanobanana.flows import apply_retention, generate_images


def run(settings: dict[str, Any]) -> None:
    """Run a batch, with a budget if one is given; or apply policies, if there are any."""
    if "policies" in settings:
        bucket = S3Bucket.model_validate(settings["bucket"])
        apply_retention(bucket=bucket, policies=settings["policies"], dry_run=False)
        return
    budget = settings.get("budget")
    with TIMES.use(replace(TIMES.get(), **settings.get("times", {}))):
        generate_images(
            prompts=settings["prompts"],
            generator=NanoBananaGenerator.model_validate(settings["generator"]),
            bucket=S3Bucket.model_validate(settings["bucket"]),
            batch=settings.get("batch", "b"),
            fallback_models=settings.get("fallback_models", []),
            budget=NanoBananaBudget.model_validate(budget) if budget else None,
            fail_on="never",
        )


if __name__ == "__main__":
    fork_runs(run, end=os._exit)
