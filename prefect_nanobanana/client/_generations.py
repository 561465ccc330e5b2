"""Reading what the API says of a generation: bytes in, values or exceptions out. No I/O here.

What answers look like: [S] the project's seed document, [D] the vendor's documentation, [W] what
public clients were seen to cope with; `docs/api.md` says more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from prefect_nanobanana.client._image_urls import urls_of
from prefect_nanobanana.client._payload import (
    Answer,
    cost_of,
    credits_of,
    excerpt,
    facts_of,
    flag_of,
    id_of,
    kept,
    message_of,
    one_line,
    text_of,
)
from prefect_nanobanana.client._refusals import read_error
from prefect_nanobanana.errors import AnswerNotUnderstood
from prefect_nanobanana.models import MAX_QUANTITY, Generation, Mode, Submission

_SAFETY = re.compile(r"content safety", re.IGNORECASE)
_DONE = ("completed", "complete", "succeeded", "success", "done", "finished")
_FAILED = ("failed", "failure", "error", "cancelled", "canceled", "rejected")
_BEGUN = ("processing", "pending", "queued", "running", "starting", "in_progress", "submitted")


def read_generation(
    answer: Answer, *, base_url: str, model: str, mode: Mode, quantity: int = MAX_QUANTITY
) -> Generation | Submission:
    """Read the answer to `POST /generate`, in any mode.

    Args:
        answer: The answer.
        base_url: The API's address, against which relative image URLs are resolved.
        model: The model that was asked.
        mode: How it was asked.
        quantity: How many images were asked for.

    Returns:
        The generation: completed, refused by the safety check (`warning`), or failed. The submission, if
        the API has only begun it: in async mode [D], and for some answers in sync mode [W].

    Raises:
        ApiError: By cause, for every status but 2xx; unless the answer says what the refusal has cost.
        AnswerNotUnderstood: If a 2xx answer cannot be read, or names no generation to ask for.
    """
    if not 200 <= answer.status < 300:
        refused = _charged_refusal(answer, base_url=base_url, model=model, mode=mode)
        if refused is None:
            raise read_error(answer)
        return refused
    facts = facts_of(answer)
    found = _ended(facts, base_url=base_url, model=model, mode=mode, quantity=quantity)
    if found is not None:
        return found
    generation_id = id_of(facts)
    begun = mode == "async" or flag_of(facts.get("async")) or _word(facts) in _BEGUN
    if not begun:
        raise AnswerNotUnderstood(
            f"the answer names no image and no failure: {excerpt(answer.content)}",
            status_code=answer.status,
            generation_id=generation_id,
        )
    if generation_id is None:
        raise AnswerNotUnderstood(
            f"the answer names no generation: {excerpt(answer.content)}", status_code=answer.status
        )
    return Submission(
        generation_id=generation_id,
        credits_used=cost_of(facts),
        remaining_credits=_remaining(facts),
        model=model,
        mode=mode,
    )


def read_status(
    answer: Answer, *, base_url: str, model: str, mode: Mode, quantity: int = MAX_QUANTITY
) -> Generation | None:
    """Read the answer to `GET /generate?id=` [D].

    Args:
        answer: The answer.
        base_url: The API's address, against which relative image URLs are resolved.
        model: The model that was asked, should the answer not say.
        mode: How it was asked.
        quantity: How many images were asked for, at most.

    Returns:
        The generation; None while it is running.

    Raises:
        ApiError: By cause; `AnswerNotUnderstood` if neither an end nor a status is in it.
    """
    if not 200 <= answer.status < 300:
        raise read_error(answer)
    facts = facts_of(answer)
    found = _ended(facts, base_url=base_url, model=model, mode=mode, quantity=quantity)
    if found is None and _word(facts) in (None, *_DONE):
        raise AnswerNotUnderstood(
            f"the answer names no image and no failure: {excerpt(answer.content)}",
            status_code=answer.status,
            generation_id=id_of(facts),
        )
    return found


def says_running(answer: Answer) -> bool:
    """Whether an answer that can be read says that its generation has not ended."""
    return _word(facts_of(answer)) in _BEGUN


def read_last_event(
    event: Mapping[str, Any], *, base_url: str, model: str, generation_id: str | None
) -> Generation:
    """Read a stream's `complete` or `error` event [D].

    Args:
        event: The event.
        base_url: The API's address, against which relative image URLs are resolved.
        model: The model that was asked.
        generation_id: The id that earlier events named.

    Raises:
        AnswerNotUnderstood: If it names neither an image nor a failure.
    """
    data = event.get("data")
    facts = {"generationId": generation_id, **event, **(data if isinstance(data, dict) else {})}
    if event.get("type") == "error":
        facts["success"] = False
    else:
        facts["message"] = None  # "Done" tells nothing
    found = _ended(facts, base_url=base_url, model=model, mode="stream", quantity=1)
    if found is None:
        raise AnswerNotUnderstood(
            "the stream's last event names no image and no failure",
            generation_id=id_of(facts),
            body_excerpt=kept(json.dumps(event).encode()),
        )
    return found


def event_id(event: Mapping[str, Any]) -> str | None:
    """The generation's id, should a stream's event name it."""
    data = event.get("data")
    found = id_of(data) if isinstance(data, dict) else None
    # The event's own `id`, at the top, may be the event's.
    return found or id_of({"generationId": event.get("generationId")})


def _charged_refusal(answer: Answer, *, base_url: str, model: str, mode: Mode) -> Generation | None:
    """The generation of a 4xx answer that says what it has cost; such an answer is free otherwise."""
    if not 400 <= answer.status < 500:
        return None
    try:
        facts = facts_of(answer)
    except AnswerNotUnderstood:
        return None
    # What an account has used of its quota is no cost: an id, or a warning, stands beside one.
    named = id_of({"generationId": facts.get("generationId")}) or flag_of(facts.get("warning"))
    if not named or not cost_of(facts):
        return None
    facts["success"] = False
    return _ended(facts, base_url=base_url, model=model, mode=mode, quantity=MAX_QUANTITY)


def _ended(
    facts: Mapping[str, Any], *, base_url: str, model: str, mode: Mode, quantity: int
) -> Generation | None:
    """The generation, if the facts tell of its end."""
    word, message = _word(facts), message_of(facts)
    failed = flag_of(facts.get("success")) is False or word in _FAILED
    urls, more = urls_of(facts, base_url, quantity, named_only=failed or word in _BEGUN)
    if more:
        named = f"the API named {len(urls) + more} images for {quantity}: the first {len(urls)} are kept"
        message = f"{message}; {named}" if message else named
    common = {
        "generation_id": id_of(facts),
        "image_urls": urls,
        "credits_used": cost_of(facts),
        "remaining_credits": _remaining(facts),
        "model": one_line(text_of(facts.get("modelUsed")) or model),
        "mode": mode,
    }
    if urls and not failed:
        return Generation(status="completed", message=message, **common)
    # Polls and streams have no flag for it: only the words of the seed document's own example tell.
    if flag_of(facts.get("warning")) or (failed and _SAFETY.search(message or "")):
        return Generation(status="warning", message=message or "the safety check refused it", **common)
    if failed:
        return Generation(status="failed", message=message or "the API gave no reason", **common)
    return None


def _word(facts: Mapping[str, Any]) -> str | None:
    """How far the generation is, in the API's word for it."""
    found = text_of(facts.get("processingStatus")) or text_of(facts.get("status"))
    return found.lower() if found else None


def _remaining(facts: Mapping[str, Any]) -> Any:
    return credits_of(facts.get("remainingCredits"), facts.get("remaining_credits"))
