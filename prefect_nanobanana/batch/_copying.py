"""Copies what a run has paid for, and stops its buying if the store takes no more."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TypeGuard

from prefect_nanobanana._common.naming import slug
from prefect_nanobanana.batch._control import RunControl
from prefect_nanobanana.batch._job import Job
from prefect_nanobanana.batch._outcomes import Ended
from prefect_nanobanana.batch._task_runs import copy_task
from prefect_nanobanana.batch._workers import run_task
from prefect_nanobanana.errors import BucketNotUsable, ImageNotCopied, StorageError
from prefect_nanobanana.images import Copied, Copier
from prefect_nanobanana.models import DIGITAL_SOURCE_TYPE, URL_LIFETIME_DAYS
from prefect_nanobanana.report import emit_image_stored

REFUSALS_IN_A_ROW = 3
"""So many copies in a row that could not be kept, and the run stops buying."""


class Copying:
    """Copies the images of jobs; safe to use from many threads.

    Args:
        copier: Copies one.
        control: What the run's jobs share.
    """

    def __init__(self, copier: Copier, control: RunControl) -> None:
        self._copier = copier
        self._control = control
        self._refused: BucketNotUsable | None = None
        self._in_a_row = 0
        self._lock = threading.Lock()

    def finish(self, job: Job) -> Ended:
        """Copy what is missing of a generation, and end its job."""
        for place, url in job.record.missing.items():
            if self._refused is not None:
                job.not_copied(self._refused)
                break
            self._copy(job, place, url)
        record = job.record
        if not record.missing:
            written = job.copies_ended(None)
            unwritten = "its record could not be written, so the next run will not know of it"
            return self._control.end(job, "stored", job.record.message if written else unwritten)
        if _are_gone(job):
            lost = (
                f"paid, but {len(record.missing)} images were not copied within {URL_LIFETIME_DAYS} "
                f"days, and are lost: {job.copy_errors[0]}"
            )
            job.images_lost(lost)
            return self._control.end(job, "failed", lost)
        urls = len(record.generation.image_urls) if record.generation else 0
        why = job.copy_errors[0] if job.copy_errors else "the task that copies it failed"
        wait = f"paid, but {len(record.missing)} of {urls} images could not be copied: {why}; "
        message = f"{wait}run the batch again within {URL_LIFETIME_DAYS} days to copy them"
        if not job.copies_ended(message):
            message = f"{wait}this could not be recorded either: the log has their addresses"
        return self._control.end(job, "failed", message)

    def _copy(self, job: Job, place: int, url: str) -> None:
        record, ledger = job.record, job.planned.ledger
        text = record.prompt.name or record.prompt.prompt
        key = ledger.key("images", f"{slug(text)}-{record.key[:8]}-{place}")
        found = self._run_task(job, url, key)
        if isinstance(found, Copied):
            with self._lock:
                self._in_a_row = 0
            job.copied(place, found)
            emit_image_stored(
                ledger.batch,
                job.planned.position,
                record.prompt.prompt,
                record.credits_used,
                found.image,
            )
            return
        job.not_copied(found)
        if isinstance(found, BucketNotUsable):
            self._refused = found
            self._control.stop(str(found), found)
        elif _cannot_be_kept(found):
            self._count(found)

    def _count(self, refusal: StorageError) -> None:
        """Stop a run that cannot store what it buys; what is paid already is still tried."""
        with self._lock:
            self._in_a_row += 1
            enough = self._in_a_row == REFUSALS_IN_A_ROW
        if enough:
            self._control.stop(f"nothing more is bought, as it cannot be stored: {refusal}", refusal)

    def _run_task(self, job: Job, url: str, key: str) -> Copied | Exception:
        record = job.record
        try:
            found = run_task(copy_task, record.prompt, self._copier, url, key, _shown(job))
        except Exception as error:  # Prefect's own
            return error
        if isinstance(found, Copied | Exception):
            return found
        return RuntimeError("the task that copies it failed")


def _shown(job: Job) -> Mapping[str, str]:
    """What the objects in S3 say of themselves."""
    record, options = job.record, job.planned.ledger.store.options
    generation = record.generation
    metadata = {
        "model": generation.model if generation else record.request.model,
        "generation-id": (generation and generation.generation_id) or "",
        "credits": str(record.credits_used),
        "prompt": record.request.prompt,
        "digital-source-type": DIGITAL_SOURCE_TYPE,
    }
    return options.shown(metadata)


def _cannot_be_kept(error: Exception) -> TypeGuard[StorageError]:
    """Whether it is the store, or this machine, that has no place for an image, and not its host."""
    if isinstance(error, ImageNotCopied):
        return error.fetched
    return isinstance(error, StorageError)


def _are_gone(job: Job) -> bool:
    """Whether what is missing can no longer be had: its URLs are old, and their host has said so."""
    age = job.record.age_seconds()
    if age is None or age <= URL_LIFETIME_DAYS * 24 * 3600:
        return False
    errors = job.copy_errors
    return bool(errors) and all(isinstance(e, ImageNotCopied) and e.gone for e in errors)
