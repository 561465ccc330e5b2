"""An answer, and the facts that it holds, whatever form they come in. No I/O here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from prefect_nanobanana.errors import AnswerNotUnderstood
from prefect_nanobanana.models import Credits

EXCERPT_CHARACTERS = 200


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


def loaded(answer: Answer) -> Any:
    """What the body holds as JSON."""
    try:
        return json.loads(answer.content)
    except ValueError:
        raise AnswerNotUnderstood(
            f"the answer is not JSON: {excerpt(answer.content)}", status_code=answer.status
        ) from None


def facts_of(answer: Answer) -> dict[str, Any]:
    """The answer's object, with what stands in its `data` envelope [W] brought to the top."""
    found = loaded(answer)
    if isinstance(found, dict):
        inner = found.get("data")
        return {**found, **inner} if isinstance(inner, dict) else found
    raise AnswerNotUnderstood(
        f"the answer is no JSON object: {excerpt(answer.content)}", status_code=answer.status
    )


def id_of(facts: Mapping[str, Any]) -> str | None:
    """The generation's id, if the facts name it."""
    for field in ("generationId", "id"):
        value = facts.get(field)
        found = str(value) if isinstance(value, int) and not isinstance(value, bool) else text_of(value)
        if found:
            return found
    return None


def urls_of(facts: Mapping[str, Any]) -> list[str]:
    """The URLs of images, as they were given."""
    for field in ("imageUrls", "outputImageUrls"):
        value = facts.get(field)
        if isinstance(value, list):
            found = [text for text in map(text_of, value) if text]
            if found:
                return found
    return []


def whole_url(base_url: str, url: str) -> str:
    """An image's URL, made whole by the API's own."""
    try:
        return urljoin(base_url.rstrip("/") + "/", url)
    except ValueError:
        return url  # it cannot be fetched, but what was paid is still told


def message_of(facts: Mapping[str, Any]) -> str | None:
    """The API's words for a person."""
    for field in ("error", "errorMessage", "message"):
        value = facts.get(field)
        if isinstance(value, dict):
            value = value.get("message")
        text = text_of(value)
        if text:
            return text[:1000]
    return None


def text_of(value: Any) -> str | None:
    """A text that says something, else None."""
    if not isinstance(value, str):
        return None
    # JSON may hold halves of characters, which nothing that follows could write.
    return value.encode("utf-8", "replace").decode().strip() or None


def credits_of(value: Any) -> Credits | None:
    """An amount of credits, if it can be read."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or value < 0:
        return None
    return int(value) if value == int(value) else value


def whole_number(*candidates: Any) -> int | None:
    """The first of some values that is a whole number."""
    for value in candidates:
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def excerpt(content: bytes) -> str:
    """What a body says, in one short line."""
    text = content[:20_000].decode("utf-8", "replace")
    if "<html" in text.lower() or text.lstrip().startswith("<!"):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        text = "an HTML page" + (f" ({title.group(1)})" if title else "")
    text = " ".join(text.split())
    if len(text) > EXCERPT_CHARACTERS:
        text = text[: EXCERPT_CHARACTERS - 3] + "..."
    return text or "an empty body"
