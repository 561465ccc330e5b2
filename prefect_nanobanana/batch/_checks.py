"""What is checked of prompts and ceiling before anything is spent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prefect_nanobanana.batch._planned import Planned
from prefect_nanobanana.batch._prompts import Listed
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import DEFAULT_ASPECT_RATIO, DEFAULT_MODEL, ImageModel, ImageRequest


def requests_of(listed: Sequence[Listed], generator: NanoBananaGenerator) -> list[ImageRequest]:
    """What the API is asked for each prompt.

    Raises:
        InvalidInput: If it cannot be asked for that; names each line.
    """
    requests: list[ImageRequest] = []
    problems: list[str] = []
    for item in listed:
        try:
            requests.append(generator.request(item.prompt))
        except InvalidInput as error:
            problems += [f"{item.place}: {problem}" for problem in error.problems]
    if problems:
        raise InvalidInput(*problems)
    return requests


def problems_of(request: ImageRequest, models: Mapping[str, ImageModel] | None) -> list[str]:
    """What the catalogue says against a request; nothing if it could not be read."""
    if models is None:
        return []
    model = models.get(request.model)
    if model is None:
        if request.model == DEFAULT_MODEL:
            return []  # documented as the default, whether it is listed or not
        return [f"model: the API has no {request.model!r}: it has {', '.join(sorted(models)) or 'none'}"]
    if request.reference_image_urls and not model.supports_image_input:
        return [f"reference_image_urls: {model.name} takes no reference images: remove them"]
    return []


def warnings_of(request: ImageRequest, models: Mapping[str, ImageModel] | None) -> list[str]:
    """What of a request may not work as it is meant, by the catalogue."""
    model = (models or {}).get(request.model)
    if model is None:
        return []
    told = []
    if model.makes_films:
        told.append(
            f"model: {model.name} seems to make films: they are stored unchecked, and shown as links"
        )
    if model.requires_pro:
        told.append(f"model: {model.name} needs a paid plan: without one the API refuses, at no cost")
    if request.aspect_ratio != DEFAULT_ASPECT_RATIO and not model.supports_aspect_ratio:
        told.append(f"aspect_ratio: {model.name} takes none: {request.aspect_ratio} may be ignored")
    return told


def check_prices(prompts: Iterable[Planned], bound: str) -> None:
    """Refuse a bound that cannot be kept.

    Args:
        prompts: What is to be done.
        bound: The parameter that bounds what it may cost.

    Raises:
        InvalidInput: If it cannot, as the price of something to ask for is not listed, or not credible.
    """
    for request, price in (each for planned in prompts for each in planned.may_be_asked):
        model = request.model
        if price is not None and price > 0:
            continue
        unlisted = f"does not list the price of {model!r}"
        what = unlisted if price is None else f"lists {model!r} at {price} credits"
        raise InvalidInput(
            f"{bound}: cannot be kept, as the API {what}: leave {bound} empty, or take a model whose "
            "price is listed"
        )
