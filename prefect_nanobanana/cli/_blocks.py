"""`nanobanana blocks`: the blocks that the deployments name."""

from __future__ import annotations

import os

from prefect.blocks.webhook import Webhook
from prefect.types import SecretDict
from prefect_aws import AwsCredentials, MinIOCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr

from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.errors import InvalidInput

BLOCKS = "nanobanana"


def blocks(
    *,
    bucket: str | None = None,
    folder: str = "",
    endpoint_url: str | None = None,
    region: str | None = None,
    budget: str | None = None,
    time_zone: str = "Etc/UTC",
    requests_at_once: int = 1,
    low_credits: int | None = None,
    generator_name: str = "default",
    bucket_name: str = BLOCKS,
    webhook_url: str | None = None,
) -> int:
    """Save the blocks that the deployments name, in the Prefect server in use.

    On AWS the bucket's credentials are not saved: each run finds them where AWS's own tools look. For
    another store AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are read, and saved as MinIO credentials.

    Args:
        bucket: The S3 bucket: saves account, generator and bucket.
        folder: A folder in the bucket.
        endpoint_url: An S3 store other than AWS, as http://127.0.0.1:9000.
        region: The bucket's region.
        budget: Saves a budget, as 500/month, whose books are in the bucket.
        time_zone: Of the budget.
        requests_at_once: What the account may have open.
        low_credits: A balance below this is told as an event.
        generator_name: Of the blocks of account and generator.
        bucket_name: Of the blocks of bucket and budget.
        webhook_url: Saves the Webhook block nanobanana for automations.
    """
    if not bucket and not webhook_url:
        raise InvalidInput("nothing to save: give --bucket, --webhook-url, or both")
    if bucket:
        _save_account(generator_name, requests_at_once, low_credits)
        store = S3Bucket(
            bucket_name=bucket,
            bucket_folder=folder,
            credentials=_store_credentials(bucket_name, endpoint_url, region),
        )
        store.save(bucket_name, overwrite=True)
        if budget:
            found = NanoBananaBudget.from_text(budget, store, time_zone=time_zone)
            found.save(bucket_name, overwrite=True)
            print(f"saved nano-banana-budget/{bucket_name}")
        print(f"saved nano-banana-generator/{generator_name}")
        print(f"saved s3-bucket/{bucket_name}")
    if webhook_url:
        Webhook(
            url=SecretStr(webhook_url), headers=SecretDict({"Content-Type": "application/json"})
        ).save(BLOCKS, overwrite=True)
        print(f"saved webhook/{BLOCKS}")
    return 0


def _save_account(name: str, requests_at_once: int, low_credits: int | None) -> None:
    """Save credentials and generator; the key comes from the environment, which `ps` shows to nobody."""
    settings = {"max_concurrent_requests": requests_at_once}
    if low_credits is not None:
        settings["low_credits"] = low_credits
    credentials = NanoBananaCredentials.from_env(**settings)
    credentials.save(name, overwrite=True)
    NanoBananaGenerator(credentials=credentials).save(name, overwrite=True)


def _store_credentials(
    name: str, endpoint_url: str | None, region: str | None
) -> AwsCredentials | MinIOCredentials:
    """Save the bucket's credentials.

    Raises:
        InvalidInput: If the store's keys are not in the environment.
    """
    credentials: AwsCredentials | MinIOCredentials
    if endpoint_url is None:
        credentials = AwsCredentials(region_name=region)
    else:
        try:
            user, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        except KeyError as error:
            raise InvalidInput(f"no key for the store: set {error.args[0]}") from None
        credentials = MinIOCredentials(
            minio_root_user=user,
            minio_root_password=SecretStr(secret),
            region_name=region,
            aws_client_parameters=AwsClientParameters(endpoint_url=endpoint_url),
        )
    credentials.save(name, overwrite=True)
    return credentials
