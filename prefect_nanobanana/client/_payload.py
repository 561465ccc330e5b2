"""An answer and what it holds, whatever form that comes in. No I/O here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from prefect_nanobanana._common.text import without_signatures
from prefect_nanobanana.errors import AnswerNotUnderstood
from prefect_nanobanana.models import exact_credits

MAX_VALUES = 1_000_000
"""More values than any answer has; each takes many times the memory of its text."""
EXCERPT_CHARACTERS = 200
KEPT_CHARACTERS = 2000
_ADDRESS = re.compile(r"""https?://[^\s"'<>\\]{1,1000}""", re.IGNORECASE)
_YES, _NO = ("true", "yes", "1", "on"), ("false", "no", "0", "off", "none", "null", "")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, whole.

    Attributes:
        status: The HTTP status.
        headers: With names in lower case.
        content: The body.
        base_url: Who was asked.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    base_url: str = ""


def without_key(content: bytes, key: bytes) -> bytes:
    """A body in which the key does not stand, however JSON may write it."""
    if not key:
        return content
    encoding = json.detect_encoding(content[:4])
    if not encoding.startswith("utf-8"):
        with suppress(UnicodeError):
            content = content.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    if b"\\" in content:
        signs = [rb"(?:\\?%s|\\u00%02x)" % (re.escape(bytes([c])), c) for c in key]
        content = re.sub(b"".join(signs), b"[key]", content, flags=re.IGNORECASE)
    return content.replace(key, b"[key]")


def parse(content: bytes) -> Any:
    """Read JSON within bounds.

    Raises:
        ValueError: If it cannot be read.
    """
    if sum(content.count(sign) for sign in (b",", b"[", b"{")) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def loaded(answer: Answer) -> Any:
    """What the body holds as JSON.

    Raises:
        AnswerNotUnderstood: If it is none.
    """
    try:
        return parse(answer.content)
    except ValueError:
        text = excerpt(answer.content)
        if is_html(answer.content):
            text += f"; {hint(answer.base_url)}"
        raise AnswerNotUnderstood(f"the answer is not JSON: {text}", status_code=answer.status) from None


def facts_of(answer: Answer) -> dict[str, Any]:
    """The answer's object, with what stands in its `data` envelope [W] brought to the top.

    Raises:
        AnswerNotUnderstood: If it is no object.
    """
    found = loaded(answer)
    if isinstance(found, dict):
        inner = found.get("data")
        if isinstance(inner, dict):
            return {**found, **{name: value for name, value in inner.items() if value is not None}}
        return found
    raise AnswerNotUnderstood(
        f"the answer is no JSON object: {excerpt(answer.content)}", status_code=answer.status
    )


def id_of(facts: Mapping[str, Any]) -> str | None:
    """The generation's id, if the facts name it."""
    for field in ("generationId", "id"):
        value = facts.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
            return str(value)
        found = text_of(value)
        if found and len(found) <= EXCERPT_CHARACTERS and found.isprintable():
            return found
    return None


def message_of(facts: Mapping[str, Any]) -> str | None:
    """The API's words for a person, in one short line."""
    for field in ("error", "errorMessage", "message", "msg", "detail"):
        value = facts.get(field)
        if isinstance(value, dict):
            value = value.get("message") or value.get("msg")
        text = text_of(value)
        if text:
            return one_line(text)
    return None


def text_of(value: Any) -> str | None:
    """A text that says something, else None."""
    if not isinstance(value, str):
        return None
    # JSON may hold halves of characters, which nothing that follows could write.
    return value.encode("utf-8", "replace").decode().strip() or None


def flag_of(value: Any) -> bool | None:
    """Whether something is so, in any form that programs write it; None if that is not said."""
    if isinstance(value, str):
        word = value.strip().lower()
        # Words of another kind, as in `"warning": "Content safety check failed"`, are a reason for it.
        return word in _YES or word not in _NO
    return None if value is None else bool(value)


def credits_of(*candidates: Any) -> int | Decimal | None:
    """The first of some values that is an amount of credits."""
    return next((found for found in map(exact_credits, candidates) if found is not None), None)


def cost_of(facts: Mapping[str, Any]) -> int | Decimal | None:
    """What a generation has cost in credits; None, and never 0, if that cannot be read."""
    cost = credits_of(facts.get("creditsUsed"), facts.get("credits_used"))
    return None if cost is not None and cost < 0 else cost


def whole_number(*candidates: Any) -> int | None:
    """The first of some values that is a whole number of something that can be counted."""
    for value in candidates:
        number = exact_credits(value)
        if isinstance(number, int) and 0 <= number < 10**9:
            return number
    return None


def one_line(text: str, longest: int = EXCERPT_CHARACTERS) -> str:
    """A text in one line that a terminal can show; a long one without its middle."""
    if len(text) > 20 * longest:
        text = f"{text[: 10 * longest]} {text[-10 * longest :].partition(' ')[2]}"
    text = without_signatures(" ".join("".join(c if c.isprintable() else " " for c in text).split()))
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end - 5]} ... {text[-end:]}"


def is_html(content: bytes) -> bool:
    """Whether a body is a page for people."""
    start = content[:20_000].lower()
    return b"<html" in start or start.lstrip().startswith(b"<!")


def has_path(base_url: str) -> bool:
    """Whether a base URL ends as the API's own does."""
    return base_url.rstrip("/").endswith("/api/v1")


def hint(base_url: str) -> str:
    """What to look at when something comes that is not the API's."""
    if not has_path(base_url):
        return f"the base URL {one_line(base_url)} does not end in /api/v1, as the API's own does"
    return "a proxy, a firewall or a network's login page stands between here and the API"


def excerpt(content: bytes) -> str:
    """What a body says, in one short line."""
    text = content[:20_000].decode("utf-8", "replace")
    if is_html(content):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        text = "an HTML page" + (f" ({one_line(title.group(1), 150)})" if title else "")
    return one_line(text) or "an empty body"


def kept(content: bytes) -> str | None:
    """What is kept of an answer that was maybe paid and cannot be read: its addresses come first."""
    if is_html(content) or not content.strip():
        return None
    text = content[:1_000_000].decode("utf-8", "replace").replace("\\/", "/").replace("\\u0026", "&")
    text = "".join(c if c.isprintable() else " " for c in text)
    if len(text) > KEPT_CHARACTERS:
        text = " ".join([*_ADDRESS.findall(text)[:8], text])
    return text[:KEPT_CHARACTERS]
