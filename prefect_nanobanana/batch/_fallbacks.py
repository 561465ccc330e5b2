"""Other models that are asked if one is retired, or refuses a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from prefect_nanobanana.batch._charges import charges_of
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.errors import BadRequest, InvalidInput, ModelNotAllowed
from prefect_nanobanana.models import DEFAULT_MODEL, ImageModel, ImageRequest

_OF_THE_MODEL = re.compile(r"\bmodel\b|\u6a21\u578b", re.IGNORECASE)
"""Words of the API's refusals; it answers in Chinese, too (vendor's documentation)."""


class FallbackModels:
    """The models that are asked, in this order, if one is retired or refuses a prompt.

    Args:
        names: As they were given.
        catalogue: The API's models by name; None if they could not be read.

    Raises:
        InvalidInput: If the API has no such model.
    """

    def __init__(self, names: Sequence[str], catalogue: Mapping[str, ImageModel] | None) -> None:
        self._names = tuple(dict.fromkeys(name.strip() for name in names))
        self._catalogue = catalogue
        if not all(self._names):
            raise InvalidInput("fallback_models: one is empty: name a model, or remove it")
        missing = [name for name in self._names if not self._has(name)]
        if missing:
            known = ", ".join(sorted(catalogue or ())) or "none"
            raise InvalidInput(f"fallback_models: the API has no {missing[0]!r}: it has {known}")

    def __bool__(self) -> bool:
        return bool(self._names)

    def after(self, request: ImageRequest) -> list[ImageRequest]:
        """What is asked for if a request is refused; models that take no references are left out."""
        return [
            request.model_copy(update={"model": name})
            for name in self._names
            if name != request.model and self._takes(name, request)
        ]

    def chain(self, request: ImageRequest) -> tuple[list[ImageRequest], str | None]:
        """What is asked for, in this order.

        Returns:
            The requests; the first is `request` itself, unless its model is retired and another can be
            asked. And a warning, if it is not.
        """
        others = self.after(request)
        if others and not self._has(request.model):
            told = f"model: the API has no {request.model!r}: {others[0].model!r} is asked instead"
            return others, told
        return [request, *others], None

    def _has(self, name: str) -> bool:
        return self._catalogue is None or name in self._catalogue or name == DEFAULT_MODEL

    def _takes(self, name: str, request: ImageRequest) -> bool:
        model = (self._catalogue or {}).get(name)
        return model is None or model.supports_image_input or not request.reference_image_urls


def untried(record: Record, chain: Sequence[ImageRequest]) -> list[ImageRequest]:
    """What of a chain no request has been charged for yet, after the last that was."""
    tried = {charge.model for charge in charges_of(record)}
    return [request for request in chain if request.model not in tried]


def refuses_model(error: Exception | None, model: str) -> bool:
    """Whether a request was refused, at no cost, for the sake of its model."""
    if isinstance(error, ModelNotAllowed):
        return True
    if not isinstance(error, BadRequest):
        return False
    return bool(_OF_THE_MODEL.search(error.message)) or model in error.message
