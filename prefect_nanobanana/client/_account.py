"""Reading what the API says of the account and its models. No I/O here."""

from __future__ import annotations

import re

from pydantic import ValidationError

from prefect_nanobanana.client._payload import Answer, credits_of, excerpt, facts_of, loaded
from prefect_nanobanana.client._refusals import read_error
from prefect_nanobanana.errors import AnswerNotUnderstood
from prefect_nanobanana.models import Credits, ImageModel


def read_credits(answer: Answer) -> Credits:
    """Read the answer to `GET /credits` [D].

    Raises:
        ApiError: By cause; `AnswerNotUnderstood` if no number is in it.
    """
    if not 200 <= answer.status < 300:
        raise read_error(answer)
    facts = facts_of(answer)
    credits = credits_of(facts.get("credits", facts.get("remainingCredits")))
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
    models = []
    for row in rows:
        if isinstance(row, dict):
            fields = {re.sub("([A-Z])", r"_\1", k).lower(): v for k, v in row.items() if v is not None}
            try:
                models.append(ImageModel.model_validate(fields))
            except ValidationError:
                continue  # one odd row must not hide the others
    return models
