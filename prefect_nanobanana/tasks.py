"""Tasks for anybody's flows, sync or async.

None of them is retried after a request that may have been charged, whatever `retries` a flow asks
for: the retry condition says no. Where flows and tasks above are retried, a ledger keeps what was paid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

# Not `from prefect import task`: that sets up Prefect's logging, which costs every process that loads
# any block a quarter of a second.
from prefect.tasks import Task, task

from prefect_nanobanana._common.task_names import named_by_prompt
from prefect_nanobanana._task_ledger import begin_call
from prefect_nanobanana.credentials import NanoBananaCredentials
from prefect_nanobanana.errors import ImageNotCopied, NeverDelivered, Paced
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import Credits, Generation, ImageModel, ImagePrompt, StoredImage
from prefect_nanobanana.storage_options import StorageOptions

if TYPE_CHECKING:
    from prefect_aws import S3Bucket


def retry_only_if_not_charged(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Say whether a failed task may run again: only if that cannot pay twice, and may help."""
    return isinstance(state.data, NeverDelivered | Paced | ImageNotCopied)


@task(
    name="generate_image",
    task_run_name=named_by_prompt,
    retries=0,
    retry_condition_fn=retry_only_if_not_charged,
    cache_policy=NO_CACHE,
)
def generate_image(prompt: str | ImagePrompt, generator: NanoBananaGenerator) -> Generation:
    """Have images made for a prompt. Costs credits, whether images come of it or not.

    In a flow, or in a task around it, each call is noted in Prefect's result storage before it is sent.
    When Prefect retries this task, a task around it or a flow above, a call that was answered returns
    that answer and one with an unknown outcome raises it again, neither being sent; what was not charged
    is sent. That needs the attempts to share the storage: on other machines, name a `result_storage`.
    A call outside of any flow or task, or of `generate_image.fn`, is not noted.

    There is no cache by default: equal prompts in one run are asked, and paid, once per call, in a loop
    as with `.submit` and `.map`.

    Args:
        prompt: The text, or a prompt with settings of its own.
        generator: How to make them.

    Returns:
        The generation. A refusal by the safety check is returned with `status="warning"`, not raised.

    Raises:
        InvalidInput: If a value is wrong; nothing was sent.
        LedgerError: If the result storage cannot be read and written; nothing was sent.
        NotCharged: If the API refused it, or was not reached for as long as the client tries.
        UnknownOutcome: If no usable answer came; maybe charged, and not sent again in this run.
    """
    ledger = begin_call(generator, prompt)
    if ledger is None:
        return generator.generate(prompt)
    found = ledger.found()
    if isinstance(found, Generation):
        return found
    with ledger.watching():
        if found is not None:
            return generator.wait(found, hooks=ledger)
        return generator.generate(prompt, hooks=ledger)


@task(
    name="agenerate_image",
    task_run_name=named_by_prompt,
    retries=0,
    retry_condition_fn=retry_only_if_not_charged,
    cache_policy=NO_CACHE,
)
async def agenerate_image(prompt: str | ImagePrompt, generator: NanoBananaGenerator) -> Generation:
    """Have images made for a prompt, from an async flow; see `generate_image`.

    Raises:
        InvalidInput: If a value is wrong; nothing was sent.
        LedgerError: If the result storage cannot be read and written; nothing was sent.
        NotCharged: If the API refused it, or was not reached for as long as the client tries.
        UnknownOutcome: If no usable answer came; maybe charged, and not sent again in this run.
    """
    ledger = await asyncio.to_thread(begin_call, generator, prompt)
    if ledger is None:
        return await generator.agenerate(prompt)
    found = ledger.found()
    if isinstance(found, Generation):
        return found
    with ledger.watching():
        if found is not None:
            async with generator.credentials.get_async_client() as client:
                return await client.wait(found, hooks=ledger)
        return await generator.agenerate(prompt, hooks=ledger)


@task(name="copy_image_to_s3", retry_condition_fn=retry_only_if_not_charged)
def copy_image_to_s3(
    image_url: str,
    bucket: S3Bucket,
    key: str,
    metadata: dict[str, str] | None = None,
    trusted_hosts: Sequence[str] = (),
    storage: StorageOptions | None = None,
) -> StoredImage:
    """Copy an image to S3, checked to be a whole picture. Costs no credits.

    Args:
        image_url: Where it is; the API's image URLs die after 15 days (vendor's documentation).
        bucket: The `S3Bucket` block of prefect-aws.
        key: Where to put it below the bucket's folder, without extension; that comes from the image.
        metadata: User metadata for the object.
        trusted_hosts: Hosts that may be asked over plain http and in private networks, as `127.0.0.1`.
        storage: How it is stored, beyond what the bucket does by itself.

    Returns:
        What is in S3 now.

    Raises:
        ImageNotCopied: If the image cannot be had or is no whole picture, or if the key holds
            something else.
        BucketNotUsable: If the bucket refuses.
    """
    # boto3 and Pillow are imported where they are used: this module is imported by every process
    # that loads any Prefect block.
    from prefect_nanobanana.images import Copier
    from prefect_nanobanana.s3 import ObjectStore

    opened = ObjectStore(bucket, storage)
    with Copier.for_bucket(opened, trusted_hosts) as copier:
        return copier.copy(image_url, opened.key(key.strip("/")), metadata).image


@task(name="get_credits", cache_policy=NO_CACHE)
def get_credits(credentials: NanoBananaCredentials) -> Credits:
    """Read an account's balance in credits.

    Raises:
        ApiError: By cause.
    """
    with credentials.get_client() as client:
        return client.credits()


@task(name="list_models", cache_policy=NO_CACHE)
def list_models(credentials: NanoBananaCredentials) -> list[ImageModel]:
    """List the models that the API offers, with their prices in credits.

    Raises:
        ApiError: By cause.
    """
    with credentials.get_client() as client:
        return client.models()
