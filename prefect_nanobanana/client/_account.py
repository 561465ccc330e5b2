"""Reading what the API says of the account and its models. No I/O here."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from prefect_nanobanana.client._payload import (
    Answer,
    credits_of,
    excerpt,
    facts_of,
    flag_of,
    loaded,
    text_of,
)
from prefect_nanobanana.client._refusals import read_error
from prefect_nanobanana.errors import AnswerNotUnderstood
from prefect_nanobanana.models import Credits, ImageModel

_MOST_MODELS = 100_000


def read_credits(answer: Answer) -> Credits:
    """Read the answer to `GET /credits` [D].

    Returns:
        The balance; below 0 for an account in debt.

    Raises:
        ApiError: By cause; `AnswerNotUnderstood` if no number is in it.
    """
    if not 200 <= answer.status < 300:
        raise read_error(answer)
    facts = facts_of(answer)
    named = [facts.get(field) for field in ("credits", "remainingCredits", "balance", "data")]
    nested = [value.get("balance") for value in named if isinstance(value, dict)]
    credits = credits_of(*named, *nested)
    if credits is None:
        raise AnswerNotUnderstood(
            f"the answer names no credits: {excerpt(answer.content)}", status_code=answer.status
        )
    return credits


def read_models(answer: Answer) -> list[ImageModel]:
    """Read the answer to `GET /models` [D]; entries without a name are passed over.

    Raises:
        ApiError: By cause; `AnswerNotUnderstood` if it holds no list.
    """
    if not 200 <= answer.status < 300:
        raise read_error(answer)
    found = loaded(answer)
    rows = found.get("data", found.get("models")) if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise AnswerNotUnderstood(
            f"the answer lists no models: {excerpt(answer.content)}", status_code=answer.status
        )
    if len(rows) > _MOST_MODELS:  # never cut: what is left out would be taken for gone
        raise AnswerNotUnderstood(
            f"the answer lists {len(rows)} models, more than {_MOST_MODELS}", status_code=answer.status
        )
    models = []
    for row in rows:
        if isinstance(row, dict):
            try:
                models.append(ImageModel.model_validate(_fields(row)))
            except ValidationError:
                continue  # one odd row must not hide the others
    return models


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    """A row's fields as `ImageModel` has them, without those that cannot be read."""
    named = {re.sub("([A-Z])", r"_\1", name).lower(): value for name, value in row.items()}
    fields: dict[str, Any] = {
        "name": text_of(named.get("name")),
        "display_name": text_of(named.get("display_name")) or "",
        "credits_cost": credits_of(named.get("credits_cost")),
    }
    for name in ("supports_image_input", "supports_aspect_ratio", "requires_pro"):
        flag = flag_of(named.get(name))
        if flag is not None:
            fields[name] = flag
    return fields
