"""The form in which a person decides on images, on a suspended run's page in Prefect's UI."""

# No `from __future__ import annotations` here: Prefect makes a form of the annotations.

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from prefect.input import RunInput
from pydantic import BaseModel, Field, create_model

from prefect_nanobanana._common.text import counted, plain, shortened
from prefect_nanobanana.models import Moment, StoredImage
from prefect_nanobanana.picks import Decision, ImageId, read_decisions
from prefect_nanobanana.report import GalleryItem

FEW_PICTURES = 6
"""Of more the form asks for what the page says: so many pictures are large enough to be seen in it."""
Choice = Literal["decide later", "keep", "reject"]
_HASH = re.compile(r"[0-9a-f]{64}")
_PICKED: dict[str, bool] = {"keep": True, "reject": False}


class Picture(NamedTuple):
    """An image that there is, and what the form shows of it."""

    image: StoredImage
    thumbnail: str
    text: str


class Asked(BaseModel):
    """What a review asks about; kept while the run is suspended, as the batch may change meanwhile.

    Attributes:
        images: The prompt's key, the place and the hash of each image, in the form's order.
        taken_over: When the answer was; None as long as there is none.
    """

    images: list[tuple[str, int, str]]
    taken_over: Moment | None = None


def pictures_of(items: Sequence[GalleryItem]) -> dict[ImageId, Picture]:
    """The images of a batch that can be decided on, in order; odd claims of records are left out."""
    found: dict[ImageId, Picture] = {}
    for item in items:
        prompt = item.outcome.prompt
        pictures = zip(item.image_ids, item.outcome.images, item.thumbnails, strict=True)
        for known, image, thumbnail in pictures:
            if known is not None and known[1] < 10**6 and _HASH.fullmatch(image.sha256):
                found[known] = Picture(image, thumbnail, shortened(prompt.name or prompt.prompt, 80))
    return found


def form_of(asked: Asked, pictures: Mapping[ImageId, Picture], page: str) -> type[RunInput]:
    """Make the form.

    Args:
        asked: The images that it asks about.
        pictures: The images that there are.
        page: Where the review page is.
    """
    fields: dict[str, Any] = {}
    few = len(asked.images) <= FEW_PICTURES
    for number, (key, place, _) in enumerate(asked.images if few else (), 1):
        picture = pictures.get((key, place))
        title = f"{number}. {picture.text if picture else key}"
        fields[f"picture_{number}"] = (Choice, Field("decide later", title=title))
        fields[f"note_{number}"] = (str, Field("", title=f"Note on {number}", max_length=2_000))
    if not few:
        title = "What is undecided on the page"
        fields["rest"] = (Choice, Field("decide later", title=title))
    fields["picks"] = (
        Annotated[str, Field(max_length=400_000)],
        Field("", title="picks.json", description="What the page has saved, if it could not hand over."),
    )
    form: type[RunInput] = create_model("Review", __base__=RunInput, **fields)
    what = counted(len(asked.images), "picture")
    shown = _pictures(asked, pictures) if few else ""
    return form.with_initial_data(
        description=(
            f"**{what} to decide on.** {shown}\n\nThe review page shows them large: `{page}` "
            "(the run's artifact leads to it). What you decide there is taken over when you press its "
            "button, and then resume here; what is chosen here counts more. Nothing is deleted, "
            "whatever you reject."
        )
    )


def decisions_of(
    given: Mapping[str, Any],
    handed_over: Mapping[ImageId, Decision],
    asked: Asked,
    pictures: Mapping[ImageId, Picture],
    batch: str,
) -> dict[ImageId, Decision]:
    """What a person has decided, on the page and in the form.

    Args:
        given: The form's fields.
        handed_over: What the page has written.
        asked: The images that the form asked about.
        pictures: The images that there are; one that is another now is not decided on.
        batch: The batch's name.

    Raises:
        InvalidInput: If what was pasted cannot be read.
    """
    decided = dict(handed_over)
    if pasted := str(given.get("picks") or "").strip():
        decided |= read_decisions(pasted, "picks", batch, hashes_of(pictures))
    rest = _PICKED.get(str(given.get("rest")))
    for number, (key, place, sha256) in enumerate(asked.images, 1):
        known, picture = (key, place), pictures.get((key, place))
        if picture is None or picture.image.sha256 != sha256:
            continue
        before = decided.get(known, Decision())
        picked = _PICKED.get(str(given.get(f"picture_{number}")), before.picked)
        note = str(given.get(f"note_{number}") or "").strip()[:2_000] or before.note
        decided[known] = Decision(picked=rest if picked is None else picked, note=note)
    return {known: each for known, each in decided.items() if each.picked is not None}


def says_something(given: Mapping[str, Any]) -> bool:
    """Whether a form was filled in, as far as it decides on anything."""
    return bool(str(given.get("picks") or "").strip()) or any(str(v) in _PICKED for v in given.values())


def hashes_of(pictures: Mapping[ImageId, Picture]) -> dict[ImageId, str]:
    """The hashes of what is in them."""
    return {known: picture.image.sha256 for known, picture in pictures.items()}


def _pictures(asked: Asked, pictures: Mapping[ImageId, Picture]) -> str:
    shown = (
        (number, pictures.get((key, place))) for number, (key, place, _) in enumerate(asked.images, 1)
    )
    cells = "".join(
        f'<td><img width="140" src="{picture.thumbnail}" alt=""><br>{number}. {plain(picture.text)}</td>'
        for number, picture in shown
        if picture is not None and picture.thumbnail
    )
    return f"\n\n<table><tr>{cells}</tr></table>" if cells else ""
