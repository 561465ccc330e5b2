"""Reading what the API says of a generation: bytes in, values or exceptions out. No I/O here.

What answers look like: [S] the project's seed document, [D] the vendor's documentation, [W] what
public clients were seen to cope with; `docs/api.md` says more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prefect_nanobanana.client._payload import (
    Answer,
    credits_of,
    excerpt,
    facts_of,
    id_of,
    message_of,
    text_of,
    urls_of,
    whole_url,
)
from prefect_nanobanana.client._refusals import read_error
from prefect_nanobanana.errors import AnswerNotUnderstood, UnknownOutcome
from prefect_nanobanana.models import Generation, Mode, Submission

_SAFETY = re.compile(r"content safety", re.IGNORECASE)


def read_generation(answer: Answer, *, base_url: str, model: str, mode: Mode) -> Generation:
    """Read the answer to `POST /generate`.

    Args:
        answer: The answer.
        base_url: The API's address, against which relative image URLs are resolved.
        model: The model that was asked.
        mode: How it was asked.

    Returns:
        The generation: completed, refused by the safety check (`warning`), or failed.

    Raises:
        ApiError: By cause, for every status but 2xx.
        UnknownOutcome: If the server says that the generation is still running.
        AnswerNotUnderstood: If a 2xx answer cannot be read.
    """
    found = read_status(answer, base_url=base_url, model=model, mode=mode)
    if found is None:
        raise UnknownOutcome(
            "the API says that the generation is still running",
            status_code=answer.status,
            generation_id=id_of(facts_of(answer)),
        )
    return found


def read_submission(answer: Answer, *, base_url: str, model: str) -> Submission | Generation:
    """Read the answer to `POST /generate` in async mode [D].

    Args:
        answer: The answer.
        base_url: The API's address.
        model: The model that was asked.

    Returns:
        The submission; or the generation, should the server have finished it at once.

    Raises:
        ApiError: By cause; `AnswerNotUnderstood` if it holds no id to ask for.
    """
    found = read_status(answer, base_url=base_url, model=model, mode="async", begun=True)
    if found is not None:
        return found
    facts = facts_of(answer)
    generation_id = id_of(facts)
    if generation_id is None:
        raise AnswerNotUnderstood(
            f"the answer names no generation: {excerpt(answer.content)}", status_code=answer.status
        )
    return Submission(
        generation_id=generation_id,
        credits_used=credits_of(facts.get("creditsUsed")),
        remaining_credits=credits_of(facts.get("remainingCredits")),
        model=model,
    )


def read_status(
    answer: Answer, *, base_url: str, model: str, mode: Mode, begun: bool = False
) -> Generation | None:
    """Read the answer to `GET /generate?id=` [D].

    Args:
        answer: The answer.
        base_url: The API's address, against which relative image URLs are resolved.
        model: The model that was asked, should the answer not say.
        mode: How it was asked.
        begun: Whether an answer that names neither an end nor a status means that it has begun.

    Returns:
        The generation; None while it is running.

    Raises:
        ApiError: By cause; `AnswerNotUnderstood` if neither an end nor a status is in it.
    """
    if not 200 <= answer.status < 300:
        raise read_error(answer)
    facts = facts_of(answer)
    found = _ended(facts, base_url=base_url, model=model, mode=mode)
    status = text_of(facts.get("processingStatus"))
    if found is None and status in (None, "completed") and not begun:
        raise AnswerNotUnderstood(
            f"the answer names no image and no failure: {excerpt(answer.content)}",
            status_code=answer.status,
            generation_id=id_of(facts),
        )
    return found


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
    found = _ended(facts, base_url=base_url, model=model, mode="stream")
    if found is None:
        raise AnswerNotUnderstood(
            "the stream's last event names no image and no failure", generation_id=id_of(facts)
        )
    return found


def event_id(event: Mapping[str, Any]) -> str | None:
    """The generation's id, should a stream's event name it."""
    data = event.get("data")
    found = id_of(data) if isinstance(data, dict) else None
    # The event's own `id`, at the top, may be the event's.
    return found or text_of(event.get("generationId"))


def _ended(facts: Mapping[str, Any], *, base_url: str, model: str, mode: Mode) -> Generation | None:
    """The generation, if the facts tell of its end."""
    status = text_of(facts.get("processingStatus"))
    urls = tuple(whole_url(base_url, url) for url in urls_of(facts))
    message = message_of(facts)
    common = {
        "generation_id": id_of(facts),
        "credits_used": credits_of(facts.get("creditsUsed")),
        "remaining_credits": credits_of(facts.get("remainingCredits")),
        "model": text_of(facts.get("modelUsed")) or model,
        "mode": mode,
    }
    failed = facts.get("success") is False or status == "failed"
    if urls and not failed:
        return Generation(status="completed", image_urls=urls, message=message, **common)
    # Polls and streams have no flag for it: only the words of the seed document's own example tell.
    if facts.get("warning") or (failed and _SAFETY.search(message or "")):
        return Generation(status="warning", message=message or "the safety check refused it", **common)
    if failed:
        return Generation(status="failed", message=message or "the API gave no reason", **common)
    return None
