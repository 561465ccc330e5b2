"""A generation that was begun, as Prefect's job runs are: wait for it, fetch its result."""

from __future__ import annotations

import time

from prefect.blocks.abstract import JobRun

from prefect_nanobanana._common.dispatch import async_dispatch
from prefect_nanobanana.credentials import NanoBananaCredentials
from prefect_nanobanana.models import DEFAULT_MODEL, Generation, Mode, Submission


class GenerationRun(JobRun[Generation]):
    """A generation that the API has begun in async mode.

    It can be pickled, and made again from the id alone: after a crash, or on another machine.

    Args:
        credentials: The account that paid.
        generation_id: The API's id.
        submission: What the API answered, if it is at hand.
        result: The generation, if it has ended already.
        model: The model that was asked, if there is no submission.
        mode: How it was asked, if there is no submission.
    """

    def __init__(
        self,
        credentials: NanoBananaCredentials,
        generation_id: str,
        *,
        submission: Submission | None = None,
        result: Generation | None = None,
        model: str = DEFAULT_MODEL,
        mode: Mode = "async",
    ) -> None:
        self.credentials = credentials
        self.generation_id = generation_id
        # One made from an id alone may have ended long ago, so the API is asked at once.
        self._submitted_at = time.time() if submission else None
        self._submission = submission or Submission(generation_id=generation_id, model=model, mode=mode)
        self._result = result

    def __repr__(self) -> str:
        return f"GenerationRun({self.generation_id!r})"

    async def await_for_completion(self) -> None:
        """Wait until the generation has ended, from async code; see `wait_for_completion`.

        Raises:
            StillRunning: If it has not ended in time; it may be waited for again.
        """
        if self._result is None:
            async with self.credentials.get_async_client() as client:
                self._result = await client.wait(self._submission, elapsed_seconds=self._elapsed())

    @async_dispatch(await_for_completion)
    def wait_for_completion(self) -> None:  # type: ignore[override]
        """Wait until the generation has ended: completed, refused by the safety check, or failed.

        It waits for the credentials' `request_timeout_seconds`, counted from the submission.

        Raises:
            StillRunning: If it has not ended in time; it may be waited for again.
        """
        self._wait()

    async def afetch_result(self) -> Generation:
        """Return the generation, from async code; see `fetch_result`.

        Raises:
            StillRunning: If it has not ended in time.
        """
        await self.await_for_completion()
        assert self._result is not None
        return self._result

    @async_dispatch(afetch_result)
    def fetch_result(self) -> Generation:  # type: ignore[override]
        """Return the generation; wait for its end if that was not done yet.

        Returns:
            The generation; a refusal by the safety check is one with `status="warning"`.

        Raises:
            StillRunning: If it has not ended in time.
        """
        return self._wait()

    def _wait(self) -> Generation:
        if self._result is None:
            with self.credentials.get_client() as client:
                self._result = client.wait(self._submission, elapsed_seconds=self._elapsed())
        return self._result

    def _elapsed(self) -> float | None:
        return None if self._submitted_at is None else time.time() - self._submitted_at
