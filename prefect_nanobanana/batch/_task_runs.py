"""The task runs of a run, which people see in Prefect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Semaphore
from typing import Any, TypeVar, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from prefect_nanobanana._common.task_names import named_by_prompt
from prefect_nanobanana.client import GenerationHooks
from prefect_nanobanana.errors import NanoBananaError
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copier
from prefect_nanobanana.models import Generation, ImagePrompt, Submission

T = TypeVar("T")
_OPTIONS: dict[str, Any] = {
    "task_run_name": named_by_prompt,
    "retries": 0,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


class Turn:
    """A turn to have Prefect begin a task run. Use it in a `with` statement; the task ends it earlier.

    Args:
        turns: How many there are at once.
    """

    def __init__(self, turns: Semaphore) -> None:
        self._turns = turns
        self._mine = False

    def __enter__(self) -> Turn:
        self._mine = self._turns.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def end(self) -> None:
        """Let another task run begin."""
        if self._mine:
            self._mine = False
            self._turns.release()


def opaque(value: T) -> T:
    """Keep Prefect from walking through a parameter in search of futures, which takes a while."""
    return cast(T, quote(value))


@task(name="generate_image", **_OPTIONS)
def generate_task(
    prompt: ImagePrompt, generator: NanoBananaGenerator, hooks: GenerationHooks, turn: Turn
) -> Any:
    """Ask for a generation."""
    turn.end()
    return _state_of(lambda: generator.generate(prompt, hooks=hooks))


@task(name="wait_for_generation", **_OPTIONS)
def wait_task(
    prompt: ImagePrompt,  # noqa: ARG001  # names the task run
    generator: NanoBananaGenerator,
    submission: Submission,
    elapsed_seconds: float | None,
    hooks: GenerationHooks,
) -> Any:
    """Wait for the end of a generation that an earlier run has begun."""
    return _state_of(lambda: generator.wait(submission, elapsed_seconds=elapsed_seconds, hooks=hooks))


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


def _state_of(work: Callable[[], Generation]) -> Any:
    try:
        generation = work()
    except NanoBananaError as error:
        return Failed(message=str(error), data=error)
    if generation.status == "warning":
        return Completed(name="Warning", message=generation.message)
    if generation.status == "failed":
        return Failed(message=generation.message)
    return Completed(message=f"{len(generation.image_urls)} images")
