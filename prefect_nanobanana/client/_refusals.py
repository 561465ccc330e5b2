"""What an answer other than a success means, by the API's error table. No I/O here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prefect_nanobanana._common.http import retry_after_seconds
from prefect_nanobanana.client._payload import (
    EXCERPT_CHARACTERS,
    Answer,
    excerpt,
    flag_of,
    html_hint,
    id_of,
    is_html,
    kept,
    message_of,
    one_line,
    parse,
    text_of,
    whole_number,
)
from prefect_nanobanana.errors import (
    AccessNotEnabled,
    ApiError,
    AuthenticationFailed,
    BadRequest,
    ConcurrencyLimitReached,
    CreditsUsedUp,
    ModelNotAllowed,
    NeverDelivered,
    QuotaExceeded,
    ServerBusy,
    UnknownOutcome,
)

_OF_THE_ACCOUNT = re.compile(r"\bapi\b|access|\bkey\b", re.IGNORECASE)
_OF_A_PLAN = re.compile(
    r"\bmodel\b|模型|requires?[ -]?pro|\bpro\b|premium|\bplan\b|\btier\b|upgrade|subscri|member"
    "|会员|套餐|升级",
    re.IGNORECASE,
)
_MODEL = re.compile(r"\bmodel\b|模型|requires?[ -]?pro|\bpro (plan|account|user|member)", re.IGNORECASE)
_QUOTA = re.compile(r"\bdaily\b|\bper day\b|\bmonthly\b|\bper month\b", re.IGNORECASE)


def read_error(answer: Answer) -> ApiError:
    """Say what an answer other than 2xx means, by the contract's error table [D].

    Args:
        answer: The answer.

    Returns:
        The exception to raise.
    """
    try:
        found = parse(answer.content)
    except ValueError:
        found = None
    facts: dict[str, Any] = found if isinstance(found, dict) else {}
    text = message_of(facts) or excerpt(answer.content)
    if is_html(answer.content) and answer.status in (404, 405) and "/api" not in answer.base_url:
        text += f"; {html_hint(answer.base_url)}"
    details: dict[str, Any] = {
        "status_code": answer.status,
        "generation_id": id_of({"generationId": facts.get("generationId")}),
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
            return _forbidden(answer, facts, text, details)
        case 429:
            return _paced(answer, facts, text, details)
        # A proxy's 503 promises no refund: only the API's own words do.
        case 503 if _type(facts) == "server_busy":
            return ServerBusy(f"the API is busy (503): {text}", **details)
        case 511:
            return NeverDelivered(
                f"the network wants a login before it lets anything through (511): {text}; open a page "
                "in this machine's browser and log in",
                **details,
            )
        case 408:
            return _unknown(f"the API gave up waiting (408): {text}", answer, details)
        case status if 300 <= status < 400:
            target = one_line(re.split("[?#]", answer.headers.get("location", "nowhere"))[0])
            return BadRequest(
                f"the API's address redirects ({status}) to {target}: set the base URL of the "
                "credentials block to where the API is; if that is the login page of a network, log in",
                **details,
            )
        case status if 400 <= status < 500:
            return BadRequest(f"the API refused the request ({status}): {text}", **details)
        case status:
            return _unknown(f"the API answered {status}: {text}", answer, details)


def _unknown(message: str, answer: Answer, details: dict[str, Any]) -> UnknownOutcome:
    return UnknownOutcome(message, body_excerpt=kept(answer.content), **details)


def _forbidden(answer: Answer, facts: Mapping[str, Any], text: str, details: dict[str, Any]) -> ApiError:
    """Tell apart a 403 of a firewall, one for a model that needs another plan, and the account's."""
    if is_html(answer.content):
        return AccessNotEnabled(
            f"a page came instead of the API's words (403): {text}; a firewall or proxy before the API "
            "refused the request: have its host allowed, or run from another network",
            **details,
        )
    said = f"{_type(facts)} {text}".replace("_", " ")
    of_the_model = flag_of(facts.get("requiresPro")) or _MODEL.search(said)
    if of_the_model or (_OF_A_PLAN.search(said) and not _OF_THE_ACCOUNT.search(said)):
        return ModelNotAllowed(
            f"the account's plan does not include this model (403): {text}; choose another model, or "
            "upgrade the account's plan",
            **details,
        )
    return AccessNotEnabled(
        f"the account is not enabled for the API (403): {text}; access opens by itself once the account "
        "has paid in 1000 yuan in all, or by hand through the vendor's support",
        **details,
    )


def _paced(answer: Answer, facts: Mapping[str, Any], text: str, details: dict[str, Any]) -> ApiError:
    details["limit"] = whole_number(facts.get("limit"), answer.headers.get("x-ratelimit-limit"))
    details["active"] = whole_number(facts.get("active"), answer.headers.get("x-ratelimit-active"))
    seconds = details["retry_after_seconds"]
    if seconds is None and _QUOTA.search(f"{_type(facts)} {text}".replace("_", " ")):
        return QuotaExceeded(f"the account's quota is used up (429): {text}", **details)
    return ConcurrencyLimitReached(f"the account has too many requests open (429): {text}", **details)


def _type(facts: Mapping[str, Any]) -> str:
    """The kind of error, in the API's own word for it."""
    inner = facts.get("error")
    found = text_of(facts.get("type")) or (
        text_of(inner.get("type")) if isinstance(inner, dict) else None
    )
    return (found or "").lower()[:EXCERPT_CHARACTERS]
