"""Asking whether a generation has ended, until it has or the time is up."""

from __future__ import annotations

from prefect_nanobanana._common.backoff import Backoff
from prefect_nanobanana.client._exchange import Exchange
from prefect_nanobanana.client._generations import read_status, says_running
from prefect_nanobanana.client._hooks import GenerationHooks
from prefect_nanobanana.client._payload import Answer
from prefect_nanobanana.client._polling import Stopwatch, durations_of
from prefect_nanobanana.client._steps import Ask, Sleep, Steps
from prefect_nanobanana.errors import (
    ApiError,
    NeverDelivered,
    Paced,
    Rejected,
    StillRunning,
    UnknownOutcome,
)
from prefect_nanobanana.models import MAX_QUANTITY, Credits, Generation, Submission

JUST_NOW_SECONDS = 1.0
"""A generation that was begun less long ago has not ended."""
REFUSED_POLLS = 3
"""So many refusals in a row, and asking for a generation's end is given up."""


class Ends(Exchange):
    """How the end of a generation is found, as generators of steps."""

    def _waiting(
        self, submission: Submission, elapsed: float | None, hooks: GenerationHooks | None
    ) -> Steps[Generation]:
        """Ask for the end of what was submitted; at once, if that was some time ago."""
        hooks, just_now = hooks or GenerationHooks(), elapsed is not None and elapsed < JUST_NOW_SECONDS
        stopwatch = Stopwatch(elapsed or 0.0)
        return (yield from self._ending(submission, hooks, stopwatch, ask_first=not just_now))

    def _ending(
        self,
        submission: Submission,
        hooks: GenerationHooks,
        stopwatch: Stopwatch,
        problem: ApiError | None = None,
        *,
        ask_first: bool = False,
        quantity: int = MAX_QUANTITY,
    ) -> Steps[Generation]:
        """Ask for a generation's end until it is there, or the time is up.

        Nothing that goes wrong here is `NotCharged`: the generation itself has begun.
        """
        model, generation_id = submission.model, submission.generation_id
        past = durations_of(self._base_url, model)
        began = stopwatch.elapsed
        until = max(self._timeout, stopwatch.elapsed + self._timings.settle_for * ask_first)
        refusals = polls = 0
        body_excerpt = None
        from_the_start = not ask_first

        partial: Generation | None = None

        def read(answer: Answer) -> Generation | None:
            nonlocal partial
            end = read_status(
                answer,
                base_url=self._base_url,
                model=model,
                mode=submission.mode,
                quantity=quantity,
            )
            if end is None or len(end.image_urls) >= quantity or not says_running(answer):
                return end
            partial = end  # more images may follow
            return None

        request = self._request("/generate", params={"id": generation_id})
        while refusals < REFUSED_POLLS:
            if isinstance(problem, UnknownOutcome):
                body_excerpt = body_excerpt or problem.body_excerpt
            delay = 0.0 if ask_first else past.delay_seconds(stopwatch.elapsed, self._timings)
            if isinstance(problem, Paced):
                delay = max(delay, problem.retry_after_seconds or 0.0)
            left = until - stopwatch.elapsed
            if left <= 0 and polls:
                break
            ask_first = False
            polls += 1
            yield Sleep(max(0.0, min(delay, left)))
            try:
                found: Generation | None = yield Ask(request, read)
            except ApiError as error:
                problem = error
                refusals = refusals + 1 if isinstance(error, Rejected) else 0
                continue
            problem, refusals = None, 0
            if found is not None:
                if from_the_start:  # else it was found long after it had ended
                    past.saw(stopwatch.elapsed)
                return _answered(found, submission, hooks)
        if partial is not None:
            return _answered(partial, submission, hooks)
        why = f" (the last answer: {problem.message})" if problem else ""
        for_seconds = stopwatch.elapsed - began
        times = "1 request" if polls == 1 else f"{polls} requests"
        over = f" over {for_seconds:.0f} s" if for_seconds >= 1 else ""
        raise StillRunning(
            f"generation {generation_id} was not seen to end in {times}{over}{why}; its id is kept",
            status_code=problem.status_code if problem else None,
            generation_id=generation_id,
            body_excerpt=body_excerpt,
        )

    def _backoff(
        self, seconds: float, again: tuple[type[ApiError], ...] = (NeverDelivered, Paced)
    ) -> Backoff:
        return Backoff(
            seconds, again, first=self._timings.first_delay, longest=self._timings.longest_delay
        )


def _answered(found: Generation, submission: Submission, hooks: GenerationHooks) -> Generation:
    remaining = found.remaining_credits
    generation = found.model_copy(
        update={
            "generation_id": submission.generation_id,
            # Nothing that was taken at submission is given back (vendor's documentation).
            "credits_used": _larger(found.credits_used, submission.credits_used),
            "remaining_credits": submission.remaining_credits if remaining is None else remaining,
        }
    )
    hooks.answered(generation)
    return generation


def _larger(first: Credits | None, second: Credits | None) -> Credits | None:
    return max((c for c in (first, second) if c is not None), default=None)
