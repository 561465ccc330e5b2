"""Reading the API's answers: bytes in, values or exceptions out. No I/O here.

What answers look like: [S] the project's seed document, [D] the vendor's documentation, [W] what
public clients were seen to cope with; `docs/api.md` says more.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from pydantic import ValidationError

from prefect_nanobanana._common.http import retry_after_seconds
from prefect_nanobanana.errors import (
    AccessNotEnabled,
    AnswerNotUnderstood,
    ApiError,
    AuthenticationFailed,
    BadRequest,
    ConcurrencyLimitReached,
    CreditsUsedUp,
    ServerBusy,
    UnknownOutcome,
)
from prefect_nanobanana.models import Credits, Generation, ImageModel, Mode, Submission

_EXCERPT_CHARACTERS = 200
_SAFETY = re.compile(r"content safety", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, whole.

    Attributes:
        status: The HTTP status.
        headers: With names in lower case.
        content: The body.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes


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
            generation_id=_id(_facts(answer)),
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
    facts = _facts(answer)
    generation_id = _id(facts)
    if generation_id is None:
        raise AnswerNotUnderstood(
            f"the answer names no generation: {_excerpt(answer.content)}", status_code=answer.status
        )
    return Submission(
        generation_id=generation_id,
        credits_used=_credits(facts.get("creditsUsed")),
        remaining_credits=_credits(facts.get("remainingCredits")),
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
    facts = _facts(answer)
    found = _ended(facts, base_url=base_url, model=model, mode=mode)
    status = _text(facts.get("processingStatus"))
    if found is None and status in (None, "completed") and not begun:
        raise AnswerNotUnderstood(
            f"the answer names no image and no failure: {_excerpt(answer.content)}",
            status_code=answer.status,
            generation_id=_id(facts),
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
            "the stream's last event names no image and no failure", generation_id=_id(facts)
        )
    return found


def event_id(event: Mapping[str, Any]) -> str | None:
    """The generation's id, should a stream's event name it."""
    data = event.get("data")
    found = _id(data) if isinstance(data, dict) else None
    # The event's own `id`, at the top, may be the event's.
    return found or _text(event.get("generationId"))


def _ended(facts: Mapping[str, Any], *, base_url: str, model: str, mode: Mode) -> Generation | None:
    """The generation, if the facts tell of its end."""
    status = _text(facts.get("processingStatus"))
    urls = tuple(_whole_url(base_url, url) for url in _urls(facts))
    message = _message(facts)
    common = {
        "generation_id": _id(facts),
        "credits_used": _credits(facts.get("creditsUsed")),
        "remaining_credits": _credits(facts.get("remainingCredits")),
        "model": _text(facts.get("modelUsed")) or model,
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


def _id(facts: Mapping[str, Any]) -> str | None:
    for field in ("generationId", "id"):
        value = facts.get(field)
        found = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)
        if found:
            return found
    return None


def read_credits(answer: Answer) -> Credits:
    """Read the answer to `GET /credits` [D].

    Raises:
        ApiError: By cause; `AnswerNotUnderstood` if no number is in it.
    """
    if not 200 <= answer.status < 300:
        raise read_error(answer)
    facts = _facts(answer)
    credits = _credits(facts.get("credits", facts.get("remainingCredits")))
    if credits is None:
        raise AnswerNotUnderstood(
            f"the answer names no credits: {_excerpt(answer.content)}", status_code=answer.status
        )
    return credits


def read_models(answer: Answer) -> list[ImageModel]:
    """Read the answer to `GET /models` [D]; entries without a name are passed over.

    Raises:
        ApiError: By cause; `AnswerNotUnderstood` if it holds no list.
    """
    if not 200 <= answer.status < 300:
        raise read_error(answer)
    loaded = _json(answer)
    rows = loaded.get("data", loaded.get("models")) if isinstance(loaded, dict) else loaded
    if not isinstance(rows, list):
        raise AnswerNotUnderstood(
            f"the answer lists no models: {_excerpt(answer.content)}", status_code=answer.status
        )
    models = []
    for row in rows:
        if isinstance(row, dict):
            fields = {re.sub("([A-Z])", r"_\1", k).lower(): v for k, v in row.items() if v is not None}
            try:
                models.append(ImageModel.model_validate(fields))
            except ValidationError:
                continue  # one odd row must not hide the others
    return models


def read_error(answer: Answer) -> ApiError:
    """Say what an answer other than 2xx means, by the contract's error table [D].

    Args:
        answer: The answer.

    Returns:
        The exception to raise.
    """
    try:
        loaded = json.loads(answer.content)
    except ValueError:
        loaded = None
    facts: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    text = _message(facts) or _excerpt(answer.content)
    details: dict[str, Any] = {
        "status_code": answer.status,
        "generation_id": _text(facts.get("generationId")),
        "retry_after_seconds": retry_after_seconds(answer.headers),
    }
    match answer.status:
        case 400:
            return BadRequest(f"the API refused the request (400): {text}", **details)
        case 401:
            return AuthenticationFailed(
                f"the API key is missing or wrong (401): {text}; put the right key into the "
                "Nano Banana Credentials block",
                **details,
            )
        case 402:
            return CreditsUsedUp(
                f"the account has no credits left (402): {text}; buy credits, then run again",
                **details,
            )
        case 403:
            return AccessNotEnabled(f"the account is not enabled for the API (403): {text}", **details)
        case 429:
            return ConcurrencyLimitReached(
                f"the account has too many requests open (429): {text}",
                limit=_whole(facts.get("limit"), answer.headers.get("x-ratelimit-limit")),
                active=_whole(facts.get("active"), answer.headers.get("x-ratelimit-active")),
                **details,
            )
        # A proxy's 503 promises no refund: only the API's own words do.
        case 503 if facts.get("type") == "server_busy":
            return ServerBusy(f"the API is busy (503): {text}", **details)
        case 408:
            return UnknownOutcome(f"the API gave up waiting (408): {text}", **details)
        case status if 300 <= status < 400:
            target = answer.headers.get("location", "nowhere")
            return BadRequest(
                f"the API's address redirects ({status}) to {target[:_EXCERPT_CHARACTERS]}: "
                "set the base URL of the credentials block to where the API is",
                **details,
            )
        case status if 400 <= status < 500:
            return BadRequest(f"the API refused the request ({status}): {text}", **details)
        case status:
            return UnknownOutcome(f"the API answered {status}: {text}", **details)


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.content)
    except ValueError:
        raise AnswerNotUnderstood(
            f"the answer is not JSON: {_excerpt(answer.content)}", status_code=answer.status
        ) from None


def _facts(answer: Answer) -> dict[str, Any]:
    """The answer's object, with what stands in its `data` envelope [W] brought to the top."""
    loaded = _json(answer)
    if isinstance(loaded, dict):
        inner = loaded.get("data")
        return {**loaded, **inner} if isinstance(inner, dict) else loaded
    raise AnswerNotUnderstood(
        f"the answer is no JSON object: {_excerpt(answer.content)}", status_code=answer.status
    )


def _urls(facts: Mapping[str, Any]) -> list[str]:
    for field in ("imageUrls", "outputImageUrls"):
        value = facts.get(field)
        if isinstance(value, list):
            found = [text for text in map(_text, value) if text]
            if found:
                return found
    return []


def _whole_url(base_url: str, url: str) -> str:
    try:
        return urljoin(base_url.rstrip("/") + "/", url)
    except ValueError:
        return url  # it cannot be fetched, but what was paid is still hooks


def _message(facts: Mapping[str, Any]) -> str | None:
    for field in ("error", "errorMessage", "message"):
        value = facts.get(field)
        if isinstance(value, dict):
            value = value.get("message")
        text = _text(value)
        if text:
            return text[:1000]
    return None


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    # JSON may hold halves of characters, which nothing that follows could write.
    return value.encode("utf-8", "replace").decode().strip() or None


def _credits(value: Any) -> Credits | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or value < 0:
        return None
    return int(value) if value == int(value) else value


def _whole(*candidates: Any) -> int | None:
    for value in candidates:
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _excerpt(content: bytes) -> str:
    text = content[:20_000].decode("utf-8", "replace")
    if "<html" in text.lower() or text.lstrip().startswith("<!"):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        text = "an HTML page" + (f" ({title.group(1)})" if title else "")
    text = " ".join(text.split())
    if len(text) > _EXCERPT_CHARACTERS:
        text = text[: _EXCERPT_CHARACTERS - 3] + "..."
    return text or "an empty body"
