"""What single tasks have asked and paid, in Prefect's result storage, for the retries above them.

Before a request that may be charged leaves, that is written; then what came of it. A retry of the task,
of a task around it, or of a flow above finds what its earlier attempt has written, and neither asks nor
pays again. The files lie beside Prefect's results, whether results are persisted or not.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from prefect.context import TaskRunContext
from prefect.filesystems import WritableFileSystem
from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_nanobanana._common.addresses import unsigned
from prefect_nanobanana._common.runs_above import attempts, runs_above, takes_the_place
from prefect_nanobanana._common.text import shortened
from prefect_nanobanana.client import GenerationHooks
from prefect_nanobanana.errors import (
    AnswerNotUnderstood,
    LedgerError,
    NotCharged,
    StillRunning,
    UnknownOutcome,
)
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import Generation, ImagePrompt, Submission

FOLDER = "nanobanana-calls"
CLAIM_SECONDS = 0.5
"""How long a claim is left before it is looked at again where calls come from several processes."""
READ_AGAIN = 10
READ_AGAIN_SECONDS = 0.1
"""Local files are not replaced at once: another call may be writing its own at this moment."""
_UNKNOWN = {kind.__name__: kind for kind in (UnknownOutcome, AnswerNotUnderstood, StillRunning)}
_NOT_AGAIN = "an earlier attempt of this task has asked already, maybe paid, and it is not asked again"
_CURE = (
    "nothing was spent by this attempt: name a `result_storage` that can be read and written, of the "
    "flow or by PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK or PREFECT_RESULTS_LOCAL_STORAGE_PATH"
)
_locks = [threading.Lock() for _ in range(64)]


class _Call(BaseModel):
    """What is known of one call. Holds neither what was asked nor any key; the images' URLs it must."""

    model_config = ConfigDict(extra="ignore")

    version: int = 1
    caller: tuple[tuple[str, int], ...]
    state: Literal["claimed", "asked", "not_charged", "submitted", "answered", "unknown"] = "claimed"
    submission: Submission | None = None
    generation: Generation | None = None
    error: str | None = None
    message: str | None = None
    status_code: int | None = None


class TaskLedger(GenerationHooks):
    """The record of one call of a task.

    Args:
        storage: Where it is kept.
        path: Its path there.
        call: What is known of it.
    """

    def __init__(self, storage: WritableFileSystem, path: str, call: _Call) -> None:
        self._storage = storage
        self._path = path
        self._call = call

    def found(self) -> Generation | Submission | None:
        """What an earlier attempt has got: an answer, or something to wait for; None if it may ask.

        Raises:
            UnknownOutcome: If an earlier attempt has asked, and it is not known what came of it.
        """
        call = self._call
        if call.state == "answered" and call.generation is not None:
            cost_nothing = call.generation.status == "failed" and call.generation.credits_used == 0
            return None if cost_nothing else call.generation
        if call.state in ("submitted", "unknown") and call.submission is not None:
            return call.submission
        if call.state in ("claimed", "not_charged"):
            return None
        kind = _UNKNOWN.get(call.error or "", UnknownOutcome)
        told = f"{call.message} ({_NOT_AGAIN})" if call.message else _NOT_AGAIN
        raise kind(told, status_code=call.status_code)

    def claim(self, wait_seconds: float) -> bool:
        """Take the record for this attempt.

        Args:
            wait_seconds: After how long it is looked at again.

        Returns:
            Whether it was taken; else a call beside this one was faster.

        Raises:
            LedgerError: If it cannot be written and read.
        """
        self._write()
        time.sleep(wait_seconds)
        written = _read(self._storage, self._path)
        if written is None:
            raise LedgerError(f"what is asked cannot be noted: it is gone at once; {_CURE}")
        return written.caller == self._call.caller

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the outcome if it is not known."""
        try:
            yield
        except UnknownOutcome as error:
            self._afterwards(
                state="unknown",
                error=type(error).__name__,
                message=error.message[:200],
                status_code=error.status_code,
            )
            raise

    def sending(self) -> None:
        """Write that a request is about to leave.

        Raises:
            LedgerError: If it cannot be written; the request does not leave.
        """
        self._write(state="asked", generation=None, submission=None)

    def not_charged(self, error: NotCharged) -> None:
        """Write that the last request cost nothing."""
        self._afterwards(state="not_charged", message=error.message[:200])

    def submitted(self, submission: Submission) -> None:
        """Write by which id its end can be asked for."""
        self._afterwards(state="submitted", submission=submission)

    def answered(self, generation: Generation) -> None:
        """Write what was paid for."""
        self._afterwards(state="answered", generation=generation)

    def _afterwards(self, **changes: Any) -> None:
        """Write what came of it; what was paid is not thrown away because that fails."""
        try:
            self._write(**changes)
        except LedgerError as error:
            get_run_logger().warning("A retry will not find the outcome of this call: %s", error)

    def _write(self, **changes: Any) -> None:
        self._call = self._call.model_copy(update=changes)
        _write(self._storage, self._path, self._call)


def begin_call(generator: NanoBananaGenerator, prompt: str | ImagePrompt) -> TaskLedger | None:
    """Find or begin the record of the call that is being made.

    Args:
        generator: How images are made.
        prompt: What is asked.

    Returns:
        The record; None if nothing above could retry the call: outside of flows and other tasks, or if
        it is called as a plain function.

    Raises:
        InvalidInput: If a value is wrong; nothing was sent.
        LedgerError: If the storage cannot be read and written; nothing was sent.
    """
    context = TaskRunContext.get()
    if context is None or not context.task.fn.__module__.startswith("prefect_nanobanana"):
        return None  # `generate_image.fn(...)`
    runs = runs_above()
    if len(runs) == 1:
        return None
    request = generator.request(prompt).model_dump(mode="json")
    # A signature is another one in each attempt; what else a query says may be which image it is.
    request["reference_image_urls"] = [unsigned(url) for url in request["reference_image_urls"]]
    asked = [[run.kind for run in runs], request, generator.mode, generator.credentials.account]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
    storage = context.result_store.result_storage
    assert storage is not None  # Prefect has filled in the default
    mine = attempts(runs)
    shared = not all(run.local for run in runs)
    with _locks[int(digest[:2], 16) % len(_locks)]:
        place = 0
        while True:
            path = f"{FOLDER}/{runs[0].id}/{digest}-{place}.json"
            call = _read(storage, path)
            if call is None or takes_the_place(mine, call.caller):
                call = call or _Call(caller=mine)
                ledger = TaskLedger(storage, path, call.model_copy(update={"caller": mine}))
                if ledger.claim(CLAIM_SECONDS if shared else 0):
                    return ledger
            place += 1


def _write(storage: Any, path: str, call: _Call) -> None:
    try:
        storage.write_path(path, call.model_dump_json(exclude_none=True).encode(), _sync=True)
    except Exception as error:
        raise LedgerError(f"what is asked cannot be noted: {_text(error)}; {_CURE}") from None


def _read(storage: Any, path: str) -> _Call | None:
    for again in range(READ_AGAIN, -1, -1):
        try:
            content = _content(storage, path)
            call = _Call.model_validate_json(content) if content is not None else None
            break
        except ValidationError:
            if not again:
                raise LedgerError(
                    f"{path} in the result storage cannot be read, so nothing is spent: remove it if "
                    "this may be paid again"
                ) from None
            time.sleep(READ_AGAIN_SECONDS)
    if call is not None and call.version != 1:
        raise LedgerError(f"{path} was written by a newer version: update the package")
    return call


def _content(storage: Any, path: str) -> bytes | None:
    try:
        content: bytes | None = storage.read_path(path, _sync=True)
        return content
    except Exception as error:
        # Each storage says in its own way that there is no such file: as for one that nobody wrote.
        absent = f"{FOLDER}/{uuid.uuid4().hex}"
        try:
            storage.read_path(absent, _sync=True)
        except Exception as other:
            if str(error).replace(path, "") == str(other).replace(absent, ""):
                return None
        raise LedgerError(f"what was asked cannot be read: {_text(error)}; {_CURE}") from None


def _text(error: Exception) -> str:
    return shortened(" ".join(f"{type(error).__name__}: {error}".split()))
