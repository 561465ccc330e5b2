"""Other models that are asked if one is retired, or refuses a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from prefect_nanobanana.batch._charges import charges_before, charges_of
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.errors import BadRequest, InvalidInput, ModelNotAllowed
from prefect_nanobanana.models import DEFAULT_MODEL, ImageModel, ImageRequest

_WORDS = (
    r"unknown|invalid|unavailable|unsupported|deprecated|retired|removed|disabled|discontinued|"
    r"no longer|not (found|available|supported|exist|valid|offered|enabled)|does(n't| not) exist|"
    r"\u4e0d\u5b58\u5728|\u4e0d\u53ef\u7528|\u4e0d\u652f\u6301|\u4e0b\u7ebf"
)
_MODEL = r"(\bmodel\b|\u6a21\u578b)"
_GONE = re.compile(rf"{_MODEL}.{{0,60}}({_WORDS})|({_WORDS}).{{0,30}}{_MODEL}", re.IGNORECASE)
"""How APIs say that they have no such model; this one speaks Chinese, too (vendor's documentation)."""
_ADDRESS = re.compile(r"\w+://\S+")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
"""What may be the prompt's own words."""


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


def untried(
    record: Record, chain: Sequence[ImageRequest], asked_by: str | None = None
) -> list[ImageRequest]:
    """What of a chain nothing has been charged for yet.

    Args:
        record: What is known of the prompt.
        chain: What is asked for, in this order.
        asked_by: Count what this call has been charged for alone.
    """
    charges = (c for c in charges_of(record) if asked_by is None or c.asked_by == asked_by)
    tried = {charge.model for charge in charges if charge.status != "earlier"}
    return [request for request in chain if request.model not in tried]


def listed_request(record: Record) -> ImageRequest:
    """What the list has asked for, whichever model was asked last."""
    refused = next((c for c in charges_before(record) if c.status == "warning"), None)
    if refused is None:
        return record.request
    return record.request.model_copy(update={"model": refused.model})


def has_refused(record: Record, request: ImageRequest) -> bool:
    """Whether the model of a request has refused the prompt, at its price."""
    charges = charges_of(record)
    return any(c.status == "warning" and c.model == request.model for c in charges)


def from_last(record: Record, chain: Sequence[ImageRequest]) -> list[ImageRequest]:
    """A chain from the model on that was asked last, if those before it have refused the prompt."""
    earlier = charges_before(record)
    refused = {charge.model for charge in earlier if charge.status == "warning"}
    if not chain or chain[0].model not in refused or record.request.model in refused:
        return [*chain]
    last = chain[0].model_copy(update={"model": record.request.model})
    return [last, *(request for request in untried(record, chain) if request.model != last.model)]


def refuses_model(error: Exception | None, model: str) -> bool:
    """Whether a request was refused, at no cost, for the sake of its model."""
    if isinstance(error, ModelNotAllowed):
        return True
    if not isinstance(error, BadRequest):
        return False
    said = _ADDRESS.sub("", error.message)
    named = re.search(rf"(?<![\w.-]){re.escape(model)}(?![\w-])", said)
    return named is not None or _GONE.search(_QUOTED.sub("", said)) is not None
