"""The gallery page `index.html` that a batch leaves in S3: one file, which needs no other."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlsplit

from jinja2 import Environment, Template

from prefect_nanobanana._common.similar import lookalikes
from prefect_nanobanana._common.text import counted, in_bytes, in_credits, number, shortened
from prefect_nanobanana._common.untrusted import is_below
from prefect_nanobanana.descriptions import DescribedImage
from prefect_nanobanana.manifest import Besides
from prefect_nanobanana.models import OutcomeStatus, RunReport, StoredImage
from prefect_nanobanana.picks import ImageId, Pick
from prefect_nanobanana.report._item import GalleryItem
from prefect_nanobanana.report._summary import NAMES, balance_note, summary
from prefect_nanobanana.retention import RemovedImage, removal_of
from prefect_nanobanana.s3 import ObjectStore

PAGE_CARDS = 2_000
"""Prompts on the page at most."""
PAGE_PREVIEW_BYTES = 16_000_000
"""Previews inside the page at most: some 2,500. The rest is loaded from `images/`, when scrolled to."""
PAGE_TEXT_BYTES = 12_000_000
"""Everything else of the cards at most: a few hundred of the longest prompts that there can be."""
EXCERPT_CHARACTERS = 240
IMAGES = "images/"

_WITHOUT: dict[OutcomeStatus, str] = {
    "stored": "No picture",
    "warning": "Refused by the safety check",
    "failed": "Failed",
    "unknown": "No answer",
    "skipped": "Not asked",
}


@dataclass(frozen=True)
class _Picture:
    """A picture of a card: where it is, seen from the page, and its preview if that is in the page.

    Attributes:
        image: The picture.
        href: Where it is.
        preview: Its preview.
        id: What it is known by.
        picked: What people decided on it.
        similar_to: The file's name of an earlier picture that looks the same.
        removed: What became of it, if it is not where it was stored any more.
        said: What it shows, in words.
    """

    image: StoredImage
    href: str | None
    preview: str | None
    id: str | None = None
    picked: Pick | None = None
    similar_to: str | None = None
    removed: RemovedImage | None = None
    said: DescribedImage | None = None

    @property
    def pick(self) -> str:
        """What people decided."""
        if self.picked is None:
            return "undecided"
        return "kept" if self.picked.picked else "rejected"

    @property
    def decided(self) -> bool:
        """Whether somebody has decided."""
        return self.picked is not None

    @property
    def note(self) -> str | None:
        """What they noted."""
        return self.picked.note if self.picked is not None else None

    @property
    def name(self) -> str:
        return self.image.key.rpartition("/")[2]


@dataclass(frozen=True)
class _Parts:
    """What the page is made of: templates of a card and of the page, its style and its script."""

    card: Template
    page: Template
    style: str
    script: str
    review_script: str


@dataclass(frozen=True)
class Review:
    """What the page of a review needs besides.

    Attributes:
        id: Tells it from other reviews.
        place: Where the decisions are to go, as `s3://bucket/key`.
        address: Where the page can put them, for a while; empty if it cannot.
        headers: What that must be sent with.
        until: How long it can.
        links: Where the page finds each full picture, by its key; by default beside it.
    """

    id: str
    place: str
    address: str
    headers: Mapping[str, str]
    until: datetime
    links: Mapping[str, str]

    @property
    def origin(self) -> str:
        """Where the page may send something to."""
        return _origin(self.address)


def gallery_page(
    report: RunReport,
    items: Sequence[GalleryItem],
    bucket: ObjectStore,
    besides: Besides | None = None,
    review: Review | None = None,
) -> bytes:
    """The gallery page `index.html`, which lies beside `images/` and links to it by relative paths.

    Args:
        report: The run's report.
        items: What to show: the run's outcomes, and after them those of earlier lists of the batch.
        bucket: Where the page will lie.
        besides: What is known of the images besides, as what people have decided.
        review: What the page needs if it is for people to decide; by default it is not.

    Returns:
        The page; it is bounded, and says what it leaves out.
    """
    parts, besides = _parts(), besides or Besides()
    links = review.links if review else {}
    pictures = _pictures(items[:PAGE_CARDS], bucket.key(report.batch) + "/", besides, links)
    cards: list[str] = []
    room = PAGE_TEXT_BYTES
    for item, its in zip(items, pictures, strict=False):
        card = parts.card.render(
            o=item.outcome,
            # A run says it in the message, too; records of earlier versions do not.
            count_note=None if item.count_note == item.outcome.message else item.count_note,
            pictures=its,
            excerpt=shortened(item.outcome.prompt.prompt, EXCERPT_CHARACTERS),
            why=shortened(item.outcome.message or "", EXCERPT_CHARACTERS),
            without=_WITHOUT[item.outcome.status],
        )
        room -= len(card.encode()) - sum(len(p.preview or "") for p in its)
        if room < 0:
            break
        cards.append(card)
    shown, left_out = items[: len(cards)], items[len(cards) :]
    counts = Counter(item.outcome.status for item in shown)
    prompts = Counter(o.status for o in report.outcomes)
    decided = Counter(picture.pick for its in pictures[: len(cards)] for picture in its)
    page = parts.page.render(
        report=report,
        summary=summary(report),
        books=balance_note(report),
        rows=[
            {"status": status, "prompts": prompts[status], "credits": report.credits_by_status[status]}
            for status in NAMES
            if prompts[status]
        ],
        counts={status: counts[status] for status in NAMES if counts[status]},
        manifest_name=(report.manifest_uri or "").rpartition("/")[2],
        notices=_notices(report, items, left_out, pictures[: len(cards)]),
        cards=cards,
        style=parts.style,
        style_hash=_hash(parts.style),
        script=parts.script,
        script_hash=_hash(parts.script),
        picks=decided if besides.picks or review else None,
        similar=sum(any(picture.similar_to for picture in its) for its in pictures[: len(cards)]),
        review=review,
        review_script=parts.review_script,
        review_hash=_hash(parts.review_script),
        image_origin=_origin(next(iter(review.links.values()), "")) if review else "",
    )
    return page.encode()


def _pictures(
    items: Sequence[GalleryItem],
    base: str,
    besides: Besides,
    links: Mapping[str, str],
) -> list[list[_Picture]]:
    """The pictures of each card. First pictures get the room first, so that few cards lack all."""
    room = PAGE_PREVIEW_BYTES
    kept: dict[tuple[int, int], str] = {}
    for place in range(max((len(item.thumbnails) for item in items), default=0)):
        for n, item in enumerate(items):
            preview = item.thumbnails[place] if place < len(item.thumbnails) else ""
            if preview and len(preview) <= room:
                room -= len(preview)
                kept[n, place] = preview
    alike = lookalikes(image for item in items for image in item.outcome.images)

    def picture(image: StoredImage, known: ImageId | None, preview: str | None) -> _Picture:
        pick = besides.picks.get(known) if known else None
        gone = removal_of(image, besides.removed)
        # A link leads to what lies beside the page, whatever a record claims.
        beside = gone is None and is_below(image.key, base + IMAGES)
        return _Picture(
            image,
            links.get(image.key) or quote(image.key.removeprefix(base)) if beside else None,
            preview,
            id=f"{known[0]}-{known[1]}" if known else None,
            picked=pick if pick is not None and pick.is_on(image) else None,
            similar_to=alike.get(image.key, "").rpartition("/")[2] or None,
            removed=gone,
            said=besides.descriptions.get(image.sha256),
        )

    return [
        [
            picture(image, known, kept.get((n, place)))
            for place, (image, known) in enumerate(zip(item.outcome.images, item.image_ids, strict=True))
        ]
        for n, item in enumerate(items)
    ]


def _notices(
    report: RunReport,
    items: Sequence[GalleryItem],
    left_out: Sequence[GalleryItem],
    pictures: Sequence[Sequence[_Picture]],
) -> list[str]:
    """What a reader must know of what is shown, and what is not."""
    notices = []
    if len(items) > report.prompts:
        more = len(items) - report.prompts
        notices.append(f"With {more} more from earlier lists of this batch, after those of this run.")
    if left_out:
        counts = Counter(item.outcome.status for item in left_out)
        which = ", ".join(f"{counts[s]} {NAMES[s][counts[s] != 1]}" for s in NAMES if counts[s])
        notices.append(
            f"This page shows the first {len(items) - len(left_out)} of {len(items)} prompts. The other "
            f"{len(left_out)} ({which}) would make it too large: they are in the manifest, and their "
            "pictures in images/."
        )
    shown = [picture for its in pictures for picture in its if picture.image.checked]
    lacking = sum(1 for picture in shown if picture.preview is None)
    if lacking:
        notices.append(
            f"{lacking} of {counted(len(shown), 'picture')} have no preview in this page, "
            "to keep it small: they are loaded from images/ when you scroll to them, which works from a "
            "folder or an open bucket, and not behind a presigned link."
        )
    return notices


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _known(value: Any) -> str:
    return "not known" if value is None else number(value)


@functools.cache
def _parts() -> _Parts:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        credits=in_credits, counted=counted, bytes=in_bytes, known=_known, number=number
    )
    card, page, style, script, review = (
        files("prefect_nanobanana.report").joinpath("templates", name).read_text("utf-8")
        for name in ("gallery_card.html.j2", "gallery.html.j2", "gallery.css", "gallery.js", "review.js")
    )
    return _Parts(environment.from_string(card), environment.from_string(page), style, script, review)
