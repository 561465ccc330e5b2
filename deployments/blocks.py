"""Save the blocks that `deployments/prefect.yaml` names, in the Prefect server in use.

    NANO_BANANA_API_KEY=nb_... python deployments/blocks.py --bucket my-bucket

The API's address is read from NANO_BANANA_BASE_URL if it is set. On AWS the bucket's credentials are not
saved: each run finds them where AWS's own tools look. For another store, named with `--endpoint-url`,
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are read, and saved as MinIO credentials.
"""

from __future__ import annotations

import argparse
import os
import sys

from prefect.blocks.webhook import Webhook
from prefect.types import SecretDict
from prefect_aws import AwsCredentials, MinIOCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr

from prefect_nanobanana import InvalidInput, NanoBananaCredentials, NanoBananaGenerator
from prefect_nanobanana.budget import NanoBananaBudget


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Save the blocks that deployments/prefect.yaml names.")
    parser.add_argument("--bucket", help="the S3 bucket: saves account, generator and bucket")
    parser.add_argument("--folder", default="", help="a folder in the bucket")
    parser.add_argument("--endpoint-url", help="an S3 store other than AWS, as http://127.0.0.1:9000")
    parser.add_argument("--region", help="the bucket's region")
    parser.add_argument("--budget", help="saves a budget, as 500/month, whose books are in the bucket")
    parser.add_argument("--time-zone", default="Etc/UTC", help="of the budget (default: Etc/UTC)")
    parser.add_argument("--requests-at-once", type=int, default=1, help="what the account may have open")
    parser.add_argument("--low-credits", type=int, help="a balance below this is told as an event")
    parser.add_argument("--generator-name", default="default", help="of the blocks (default: default)")
    parser.add_argument(
        "--bucket-name", default="nanobanana", help="of bucket and budget (default: nanobanana)"
    )
    parser.add_argument("--webhook-url", help="saves the Webhook block `nanobanana` for automations")
    options = parser.parse_args(argv)
    if not options.bucket and not options.webhook_url:
        parser.error("nothing to save: give --bucket, --webhook-url, or both")
    return options


def save_account(options: argparse.Namespace) -> None:
    """Save credentials and generator; the key comes from the environment, which `ps` shows to nobody."""
    settings = {"max_concurrent_requests": options.requests_at_once}
    if options.low_credits is not None:
        settings["low_credits"] = options.low_credits
    credentials = NanoBananaCredentials.from_env(**settings)
    credentials.save(options.generator_name, overwrite=True)
    NanoBananaGenerator(credentials=credentials).save(options.generator_name, overwrite=True)


def save_bucket(options: argparse.Namespace) -> None:
    """Save the bucket, its credentials, and the budget if there is one.

    Raises:
        InvalidInput: If the store's keys are not in the environment, or the budget is none.
    """
    credentials: AwsCredentials | MinIOCredentials
    if options.endpoint_url is None:
        credentials = AwsCredentials(region_name=options.region)
    else:
        try:
            user, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        except KeyError as error:
            raise InvalidInput(f"no key for the store: set {error.args[0]}") from None
        credentials = MinIOCredentials(
            minio_root_user=user,
            minio_root_password=SecretStr(secret),
            region_name=options.region,
            aws_client_parameters=AwsClientParameters(endpoint_url=options.endpoint_url),
        )
    credentials.save(options.bucket_name, overwrite=True)
    bucket = S3Bucket(bucket_name=options.bucket, bucket_folder=options.folder, credentials=credentials)
    bucket.save(options.bucket_name, overwrite=True)
    if options.budget:
        budget = NanoBananaBudget.from_text(options.budget, bucket, time_zone=options.time_zone)
        budget.save(options.bucket_name, overwrite=True)
        print(f"saved nano-banana-budget/{options.bucket_name}")


def main(argv: list[str] | None = None) -> int:
    """Save what is asked for.

    Returns:
        0, or 2 if a key is missing.
    """
    options = parse(argv)
    try:
        if options.bucket:
            save_account(options)
            save_bucket(options)
            print(f"saved nano-banana-generator/{options.generator_name}")
            print(f"saved s3-bucket/{options.bucket_name}")
        if options.webhook_url:
            Webhook(
                url=SecretStr(options.webhook_url),
                headers=SecretDict({"Content-Type": "application/json"}),
            ).save("nanobanana", overwrite=True)
            print("saved webhook/nanobanana")
    except InvalidInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
