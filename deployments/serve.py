"""The deployments of `deployments/prefect.yaml` without a work pool: this process runs what is due.

    python deployments/serve.py

It needs a Prefect server (`PREFECT_API_URL`) and the blocks, and runs until Ctrl-C; while it does not
run, nothing does. The names are those of `prefect.yaml`: whoever moves on to a work pool finds the same
deployments, and no second schedule. See docs/deployments.md.
"""

# No `from __future__ import annotations` here, as in every module that serves flows.

import argparse
import os
from typing import Any, cast

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron

from prefect_nanobanana.flows import (
    apply_retention,
    copy_pending,
    generate_images,
    generate_in_parts,
    generate_part,
    publish_batches,
    review_images,
)
from prefect_nanobanana.flows._daily import daily_images

ONE_WAITS = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
ONE_IS_ENOUGH = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Serve the deployments until Ctrl-C.")
    parser.add_argument(
        "--generator",
        default=os.environ.get("NANOBANANA_GENERATOR", "default"),
        help="name of the Nano Banana Generator block (default: $NANOBANANA_GENERATOR, or default)",
    )
    parser.add_argument(
        "--bucket",
        default=os.environ.get("NANOBANANA_BUCKET", "nanobanana"),
        help="name of the S3 Bucket block (default: $NANOBANANA_BUCKET, or nanobanana)",
    )
    parser.add_argument("--time-zone", default="Etc/UTC", help="of the schedules (default: Etc/UTC)")
    parser.add_argument("--max-credits", type=int, default=10, help="the most a day may spend")
    parser.add_argument("--prompt", action="append", help="a prompt of the daily batch; may be repeated")
    return parser.parse_args(argv)


def deployments(options: argparse.Namespace) -> list[RunnerDeployment]:
    """Make the deployments.

    The blocks are given by name and loaded when a run starts: a new key in the block is used by the next
    run, and no secret is stored in a deployment.
    """
    blocks: dict[str, Any] = {
        "generator": _block(f"nano-banana-generator/{options.generator}"),
        "bucket": _block(f"s3-bucket/{options.bucket}"),
    }
    prompts = options.prompt or ["A {weekday} in {month} in a small harbour town, gouache"]
    made = [
        generate_images.to_deployment(
            "prompt-list",
            description="Makes pictures from a list of prompts, and keeps them in the bucket.",
            parameters={**blocks, "max_credits": options.max_credits},
            concurrency_limit=ONE_WAITS,
            tags=["nanobanana"],
        ),
        generate_in_parts.to_deployment(
            "in-parts",
            description="Makes pictures from a long list of prompts, in several parts at the same time.",
            parameters={**blocks, "max_credits": options.max_credits},
            concurrency_limit=ONE_WAITS,
            tags=["nanobanana"],
        ),
        generate_part.to_deployment(
            "part",
            description="One part of a batch: in-parts starts it.",
            tags=["nanobanana"],
        ),
        daily_images.to_deployment(
            "daily",
            description="Makes the pictures of the day, in a batch named after the day.",
            schedule=Cron("0 6 * * *", timezone=options.time_zone, slug="every-morning"),
            parameters={
                **blocks,
                "prompts": prompts,
                "time_zone": options.time_zone,
                "max_credits": options.max_credits,
            },
            concurrency_limit=ONE_WAITS,
            tags=["nanobanana"],
        ),
        copy_pending.to_deployment(
            "copy-pending",
            description="Fetches pictures that were paid for and have not reached the bucket.",
            schedule=Cron("30 6 * * *", timezone=options.time_zone, slug="every-morning"),
            parameters=blocks,
            concurrency_limit=ONE_IS_ENOUGH,
            tags=["nanobanana"],
        ),
        review_images.to_deployment(
            "review",
            description="Has people decide which pictures of a batch are kept.",
            parameters={"batch": "", **blocks},
            tags=["nanobanana"],
        ),
        publish_batches.to_deployment(
            "publish-batches",
            description="Writes galleries and manifests anew, of batches that an earlier version or a "
            "killed run left.",
            parameters={"bucket": blocks["bucket"]},
            concurrency_limit=ONE_WAITS,
            tags=["nanobanana"],
        ),
        apply_retention.to_deployment(
            "retention",
            description="Lists what batches hold, and says which images a policy would move away.",
            parameters={
                "bucket": blocks["bucket"],
                "policies": [{"images": ["rejected"], "after_days": 30}],
            },
            concurrency_limit=ONE_WAITS,
            tags=["nanobanana"],
        ),
    ]
    # The methods answer with a coroutine only where an event loop runs.
    return cast(list[RunnerDeployment], made)


def _block(slug: str) -> dict[str, Any]:
    return {"$ref": {"block_document_slug": slug}}


# Without the guard each run would serve again instead of running, and stay in "Submitting".
if __name__ == "__main__":
    serve(*deployments(parse()))
