"""The form in which a person decides on images, on a suspended run's page in Prefect's UI."""

# No `from __future__ import annotations` here: Prefect makes a form of the annotations.

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from prefect.input import RunInput
from pydantic import Field, create_model

from prefect_nanobanana._common.text import counted, plain, shortened
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.picks import Decision, ImageId, read_decisions
from prefect_nanobanana.report import GalleryItem

FEW_PICTURES = 6
"""Of more the form asks for what the page says: so many pictures are large enough to be seen in it."""
Choice = Literal["decide later", "keep", "reject"]
_PICKED: dict[str, bool] = {"keep": True, "reject": False}


class Seen:
    """The images that a review asks about.

    Args:
        items: The outcomes of the batch.
        without: Images that are decided on already.
    """

    def __init__(self, items: Sequence[GalleryItem], without: Mapping[ImageId, Any]) -> None:
        self.pictures = [
            (known, image, thumbnail, item)
            for item in items
            for known, image, thumbnail in zip(
                item.image_ids, item.outcome.images, item.thumbnails, strict=True
            )
            if known is not None and (known not in without or without[known].sha256 != image.sha256)
        ]

    @property
    def hashes(self) -> dict[ImageId, str]:
        """The hashes of what is in them."""
        return {known: image.sha256 for known, image, _, _ in self.pictures}


def form_of(seen: Seen, page: str) -> type[RunInput]:
    """Make the form.

    Args:
        seen: The images.
        page: Where the review page is.
    """
    fields: dict[str, Any] = {}
    few = len(seen.pictures) <= FEW_PICTURES
    for number, (_, _, _, item) in enumerate(seen.pictures if few else (), 1):
        text = shortened(item.outcome.prompt.name or item.outcome.prompt.prompt, 80)
        fields[f"picture_{number}"] = (Choice, Field("decide later", title=f"{number}. {text}"))
        fields[f"note_{number}"] = (str, Field("", title=f"Note on {number}", max_length=2_000))
    if not few:
        title = "What is undecided on the page"
        fields["rest"] = (Choice, Field("decide later", title=title))
    fields["picks"] = (
        Annotated[str, Field(max_length=400_000)],
        Field("", title="picks.json", description="What the page has saved, if it could not hand over."),
    )
    form: type[RunInput] = create_model("Review", __base__=RunInput, **fields)
    what = counted(len(seen.pictures), "picture")
    pictures = _pictures(seen) if few else ""
    return form.with_initial_data(
        description=(
            f"**{what} to decide on.** {pictures}\n\nThe review page shows them large: `{page}` "
            "(the run's artifact leads to it). What you decide there is taken over when you press its "
            "button, and then resume here; what is chosen here counts more. Nothing is deleted, "
            "whatever you reject."
        )
    )


def decisions_of(
    given: Mapping[str, Any], handed_over: bytes | None, seen: Seen, batch: str, place: str
) -> dict[ImageId, Decision]:
    """What a person has decided, on the page and in the form.

    Args:
        given: The form's fields.
        handed_over: What the page has written; None if nothing.
        seen: The images that were asked about.
        batch: The batch's name.
        place: Where the page has written it, for errors.

    Raises:
        InvalidInput: If one of them cannot be read.
    """
    decided: dict[ImageId, Decision] = {}
    pasted = str(given.get("picks") or "").strip()
    for content, name in ((handed_over, place), (pasted, "picks")):
        if content:
            decided |= read_decisions(content, name, batch, seen.hashes)
    rest = _PICKED.get(str(given.get("rest")))
    for number, (known, *_) in enumerate(seen.pictures, 1):
        before = decided.get(known, Decision())
        picked = _PICKED.get(str(given.get(f"picture_{number}")), before.picked)
        note = str(given.get(f"note_{number}") or "").strip() or before.note
        if len(note or "") > 2_000:
            raise InvalidInput(f"note_{number}: is too long: shorten it to 2000 characters")
        picked = rest if picked is None else picked
        decided[known] = Decision(picked=picked, note=note)
    return {known: each for known, each in decided.items() if each.picked is not None}


def _pictures(seen: Seen) -> str:
    cells = "".join(
        f'<td><img width="140" src="{thumbnail}" alt=""><br>{number}. '
        f"{plain(shortened(item.outcome.prompt.prompt, 80))}</td>"
        for number, (_, _, thumbnail, item) in enumerate(seen.pictures, 1)
        if thumbnail
    )
    return f"\n\n<table><tr>{cells}</tr></table>" if cells else ""
