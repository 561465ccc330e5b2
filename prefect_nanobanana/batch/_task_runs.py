"""The task runs of a run, which people see in Prefect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from prefect_nanobanana._common.task_names import named_by_prompt
from prefect_nanobanana.batch._job import Job
from prefect_nanobanana.errors import NanoBananaError
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copier
from prefect_nanobanana.models import Generation, ImagePrompt, Submission

_OPTIONS: dict[str, Any] = {
    "task_run_name": named_by_prompt,
    "retries": 0,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


@task(name="generate_image", **_OPTIONS)
def generate_task(prompt: ImagePrompt, generator: NanoBananaGenerator, job: Job) -> Any:
    """Ask for a generation."""
    job.run.begun(job)
    return _state_of(job, lambda: generator.generate(prompt, hooks=job))


@task(name="wait_for_generation", **_OPTIONS)
def wait_task(
    prompt: ImagePrompt,  # noqa: ARG001  # names the task run
    generator: NanoBananaGenerator,
    submission: Submission,
    elapsed_seconds: float | None,
    job: Job,
) -> Any:
    """Wait for the end of a generation that an earlier run has begun."""
    return _state_of(job, lambda: generator.wait(submission, elapsed_seconds=elapsed_seconds, hooks=job))


@task(name="copy_image_to_s3", **_OPTIONS)
def copy_task(
    prompt: ImagePrompt,  # noqa: ARG001  # names the task run
    copier: Copier,
    url: str,
    key: str,
    metadata: Mapping[str, str],
) -> Any:
    """Copy one image of a generation."""
    try:
        copied = copier.copy(url, key, metadata, thumbnail=True)
    except Exception as error:  # whatever it is, the others go on and the record stays
        return Failed(message=f"{type(error).__name__}: {error}", data=error)
    return Completed(message=copied.image.uri, data=copied)


def _state_of(job: Job, work: Callable[[], Generation]) -> Any:
    try:
        generation = work()
    except NanoBananaError as error:
        return Failed(message=str(error), data=job.told(error))
    data = job.told(None)
    if generation.status == "warning":
        return Completed(name="Warning", message=generation.message, data=data)
    if generation.status == "failed":
        return Failed(message=generation.message, data=data)
    return Completed(message=f"{len(generation.image_urls)} images", data=data)
