"""What an answer other than a success means, by the API's error table. No I/O here."""

from __future__ import annotations

import json
from typing import Any

from prefect_nanobanana._common.http import retry_after_seconds
from prefect_nanobanana.client._payload import (
    EXCERPT_CHARACTERS,
    Answer,
    excerpt,
    message_of,
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
    ServerBusy,
    UnknownOutcome,
)


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
    text = message_of(facts) or excerpt(answer.content)
    details: dict[str, Any] = {
        "status_code": answer.status,
        "generation_id": text_of(facts.get("generationId")),
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
                limit=whole_number(facts.get("limit"), answer.headers.get("x-ratelimit-limit")),
                active=whole_number(facts.get("active"), answer.headers.get("x-ratelimit-active")),
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
                f"the API's address redirects ({status}) to {target[:EXCERPT_CHARACTERS]}: "
                "set the base URL of the credentials block to where the API is",
                **details,
            )
        case status if 400 <= status < 500:
            return BadRequest(f"the API refused the request ({status}): {text}", **details)
        case status:
            return UnknownOutcome(f"the API answered {status}: {text}", **details)
