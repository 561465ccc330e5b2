"""Run the main job from the command line: a file of prompts in, pictures in S3 out.

    NANO_BANANA_API_KEY=nb_... python flows/prompt_list.py flows/prompts/postcards.csv --bucket my-bucket

S3 credentials come from where AWS's own tools look: the environment, profiles, or a role.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

# The first run on a fresh machine starts a temporary Prefect server, which takes about 20 s: Prefect's
# own limit. It must be set before Prefect is imported.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# One line per prompt is shown by the live progress already.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")

from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import ValidationError

from prefect_nanobanana import (
    ApiError,
    InvalidInput,
    LedgerError,
    NanoBananaCredentials,
    NanoBananaGenerator,
    PromptTemplate,
    RunFailed,
    StorageError,
)
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.console import live_progress, print_error, print_plan, print_report
from prefect_nanobanana.flows import generate_images, plan_images


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Have images made for a list of prompts, copy them to S3, and report the credits.",
        epilog="The API key is read from NANO_BANANA_API_KEY or NB_API_KEY, the API's address from "
        "NANO_BANANA_BASE_URL if it is set. S3 credentials: environment, AWS profile or role.",
    )
    parser.add_argument(
        "prompts_from",
        nargs="?",
        metavar="FILE",
        help="a .txt, .csv, .tsv, .json, .jsonl or .parquet file: a path, an s3:// address or a web "
        "address",
    )
    parser.add_argument("--prompt", action="append", default=[], help="a prompt; may be repeated")
    parser.add_argument(
        "--template",
        help="the text of prompts, with columns of the list or variables of the matrix: "
        '"{product} on {desk}"',
    )
    parser.add_argument(
        "--matrix",
        action="append",
        default=[],
        metavar="NAME=A,B",
        help="values of a variable: each prompt is made for every combination; may be repeated",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="NAME=A,NAME=B",
        help="a combination to leave out; may be repeated",
    )
    parser.add_argument("--limit", type=int, help="make at most so many prompts of the template")
    parser.add_argument("--bucket", required=True, help="the S3 bucket to copy the images to")
    parser.add_argument("--folder", default="", help="a folder in the bucket")
    parser.add_argument("--endpoint-url", help="an S3 store other than AWS, as http://127.0.0.1:9000")
    parser.add_argument("--region", help="the bucket's region")
    parser.add_argument("--batch", help="the name of this piece of work; the same name again resumes it")
    parser.add_argument(
        "--plan", action="store_true", help="say what it would cost, prompt by prompt, and spend nothing"
    )
    parser.add_argument("--max-credits", type=int, help="the most that this run may spend")
    parser.add_argument(
        "--budget",
        help="what all runs that name it may spend together, as 500/month; kept in the bucket",
    )
    parser.add_argument("--fail-on", choices=["error", "warning", "never"], default="error")
    parser.add_argument(
        "--mode",
        choices=["sync", "async", "stream"],
        default="sync",
        help="how the API is asked; async survives a crash without losing an image (default: sync)",
    )
    parser.add_argument(
        "--ask-again",
        choices=["warnings", "failed", "unknown"],
        nargs="*",
        default=[],
        help="what earlier runs of the batch asked, and is asked, and paid, again",
    )
    parser.add_argument(
        "--fallback-model",
        action="append",
        default=[],
        help="a model that is asked if the others refuse, each at its price; may be repeated",
    )
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        help="an image to start from: a web address, an s3:// address, or a file as ./cat.png; may be "
        "repeated",
    )
    parser.add_argument("--model", default="nano-banana", help="default: nano-banana")
    parser.add_argument("--aspect-ratio", default="default", help="as 16:9")
    parser.add_argument("--quantity", type=int, default=1, help="images per prompt, 1 to 4")
    parser.add_argument(
        "--requests-at-once", type=int, default=1, help="what the account may have open; default: 1"
    )
    return parser.parse_args(argv)


def template(options: argparse.Namespace) -> PromptTemplate | None:
    """The template that the options describe, if they do.

    Raises:
        InvalidInput: If one of them cannot be read.
        ValidationError: If they do not fit each other.
    """
    if options.template is None and not options.matrix:
        if options.exclude or options.limit:
            raise InvalidInput("--exclude and --limit need --template or --matrix")
        return None
    named = [_named(each) for each in options.matrix]
    if len({name for name, _ in named}) < len(named):
        raise InvalidInput("--matrix has a name twice: give all its values at once, as desk=slate,oak")
    matrix = {name: values.split(",") for name, values in named}
    exclude = [dict(map(_named, each.split(","))) for each in options.exclude]
    return PromptTemplate(text=options.template, matrix=matrix, exclude=exclude, limit=options.limit)


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"{text!r} has no name: write it as product=cup,bowl")
    return name.strip(), value


def main(argv: list[str] | None = None) -> int:
    """Run the main job.

    Returns:
        0 if all went well, 1 if the run failed, 2 if it could not start, 130 after Ctrl-C.
    """
    options = parse(argv)
    try:
        generator = NanoBananaGenerator(
            credentials=NanoBananaCredentials.from_env(max_concurrent_requests=options.requests_at_once),
            model=options.model,
            mode=options.mode,
            aspect_ratio=options.aspect_ratio,
            quantity=options.quantity,
            reference_image_urls=options.reference,
        )
        bucket = S3Bucket(
            bucket_name=options.bucket,
            bucket_folder=options.folder,
            credentials=AwsCredentials(
                region_name=options.region,
                aws_client_parameters=AwsClientParameters(endpoint_url=options.endpoint_url),
            ),
        )
        settings: dict[str, Any] = {
            "prompts": options.prompt,
            "prompts_from": options.prompts_from,
            "generator": generator,
            "bucket": bucket,
            "batch": options.batch,
            "max_credits": options.max_credits,
            "ask_again": options.ask_again,
            "template": template(options),
            "fallback_models": options.fallback_model,
            "budget": NanoBananaBudget.from_text(options.budget, bucket) if options.budget else None,
        }
        if options.plan:
            print_plan(plan_images(**settings))
            return 0
        with live_progress():
            report = generate_images(**settings, fail_on=options.fail_on)
    except RunFailed as error:
        print_report(error.report)
        print_error(f"failed: {error}")
        return 1
    except (InvalidInput, ApiError, StorageError, LedgerError, ValidationError) as error:
        # The flow raises these only while it looks at what it was given.
        print_error(f"nothing was spent: {error}")
        return 2
    except KeyboardInterrupt as error:
        print_error(" ".join(getattr(error, "__notes__", ["stopped: nothing was asked"])))
        return 130
    print_report(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
