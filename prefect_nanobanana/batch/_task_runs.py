"""The task runs of a run. What comes of them is kept in the job; their states are for people."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.states import Completed, Failed

from prefect_nanobanana._common.task_names import named_by_prompt, run_name
from prefect_nanobanana.batch._job import Job, metadata
from prefect_nanobanana.errors import NanoBananaError
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copied, Copier
from prefect_nanobanana.models import Generation, ImagePrompt, Submission
from prefect_nanobanana.report import emit_image_stored


def _named_by_job() -> str:
    prompt: ImagePrompt = task_run.parameters["job"].prompt
    return run_name(prompt.name or prompt.prompt)


@task(
    name="generate_image",
    task_run_name=named_by_prompt,
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def generate_task(prompt: ImagePrompt, generator: NanoBananaGenerator, job: Job) -> Any:
    """Ask for a generation."""
    return _shown(job, lambda: generator.generate(prompt, hooks=job))


@task(
    name="wait_for_generation",
    task_run_name=_named_by_job,
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def wait_task(generator: NanoBananaGenerator, job: Job) -> Any:
    """Wait for the end of a generation that an earlier run has begun."""
    record = job.record
    submission = Submission(
        generation_id=str(record.generation_id),
        credits_used=record.credits_used or None,
        model=record.request.model,
    )
    elapsed = (datetime.now(UTC) - record.asked_at).total_seconds() if record.asked_at else None
    return _shown(
        job, lambda: generator.wait(submission, elapsed_seconds=elapsed and max(0, elapsed), hooks=job)
    )


def _shown(job: Job, work: Callable[[], Generation]) -> Any:
    try:
        generation = work()
    except NanoBananaError as error:
        job.error = error
        return Failed(message=str(error))
    if generation.status == "warning":
        return Completed(name="Warning", message=generation.message)
    if generation.status == "failed":
        return Failed(message=generation.message)
    return Completed(message=f"{len(generation.image_urls)} images")


@task(
    name="copy_image_to_s3",
    task_run_name=_named_by_job,
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def copy_task(copier: Copier, place: int, url: str, key: str, job: Job) -> Any:
    """Copy one image of a generation."""
    try:
        copied: Copied = copier.copy(url, key, metadata(job.record), thumbnail=True)
    except Exception as error:  # whatever it is, the others go on and the record stays
        job.copy_errors.append(error)
        return Failed(message=f"{type(error).__name__}: {error}")
    job.record.images[place] = copied.image
    job.record.thumbnails[place] = copied.thumbnail
    record = job.record
    emit_image_stored(
        job.ledger.batch, job.position, record.prompt.prompt, record.credits_used, copied.image
    )
    return Completed(message=copied.image.uri)
