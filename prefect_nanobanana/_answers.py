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
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin

from pydantic import ValidationError

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
from prefect_nanobanana.models import Credits, Generation, ImageModel, Mode

_EXCERPT_CHARACTERS = 200


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
    if not 200 <= answer.status < 300:
        raise read_error(answer)
    facts = _facts(answer)
    status = _text(facts.get("processingStatus"))
    generation_id = _text(facts.get("generationId")) or _text(facts.get("id"))
    urls = tuple(_whole_url(base_url, url) for url in _urls(facts))
    message = _message(facts)
    common = {
        "generation_id": generation_id,
        "credits_used": _credits(facts.get("creditsUsed")),
        "remaining_credits": _credits(facts.get("remainingCredits")),
        "message": message,
        "model": _text(facts.get("modelUsed")) or model,
        "mode": mode,
    }
    if urls and facts.get("success") is not False and status != "failed":
        return Generation(status="completed", image_urls=urls, **common)
    if facts.get("warning"):
        common["message"] = message or "the safety check refused it"
        return Generation(status="warning", **common)
    if facts.get("success") is False or status == "failed":
        common["message"] = message or "the API gave no reason"
        return Generation(status="failed", **common)
    if status is not None and status != "completed":
        raise UnknownOutcome(
            f"the generation is still {status}",
            status_code=answer.status,
            generation_id=generation_id,
        )
    raise AnswerNotUnderstood(
        f"the answer names no image and no failure: {_excerpt(answer.content)}",
        status_code=answer.status,
        generation_id=generation_id,
    )


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


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Read `Retry-After`: seconds or an HTTP date.

    Args:
        headers: The answer's headers, with names in lower case.
        now: The present, for tests.

    Returns:
        Seconds from now, never negative; None if the header is absent or cannot be read.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    moment = _moment(value)
    if moment is None:
        return None
    # The server's own clock says how far away that is; ours may differ.
    now = now or _moment(headers.get("date", "")) or datetime.now(timezone.utc)
    return max(0.0, (moment - now).total_seconds())


def _moment(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


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
        return url  # it cannot be fetched, but what was paid is still told


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
