"""What people see of a review: a page on which they decide, an artifact that leads to it, and events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from prefect_nanobanana._common.text import plain, shortened
from prefect_nanobanana.manifest import Besides
from prefect_nanobanana.models import RunReport
from prefect_nanobanana.picks import Pick
from prefect_nanobanana.report._artifacts import artifact_key, strip
from prefect_nanobanana.report._events import batch_resource
from prefect_nanobanana.report._gallery import PAGE_CARDS, Review, gallery_page
from prefect_nanobanana.report._item import GalleryItem
from prefect_nanobanana.s3 import ObjectStore

PAGE = "review.html"
IMAGE_PICKED = "nanobanana.image.picked"
IMAGE_REJECTED = "nanobanana.image.rejected"


class ReviewPages:
    """Shows a batch's images to people who decide on them.

    Args:
        store: Where the batch lies.
        batch: Its name.
    """

    def __init__(self, store: ObjectStore, batch: str) -> None:
        self._store = store
        self._batch = batch

    MOST_PROMPTS = PAGE_CARDS
    """On the page."""

    @property
    def uri(self) -> str:
        """Where the page is."""
        return self._store.uri(self._key)

    @property
    def _key(self) -> str:
        return self._store.key(self._batch, PAGE)

    def write_page(
        self,
        report: RunReport,
        items: Sequence[GalleryItem],
        besides: Besides,
        handed_over: str,
        seconds: float,
    ) -> None:
        """Write the page, and the artifact that leads to it.

        The page is private, whatever the gallery is: for a while it may write one object.

        Args:
            report: What the batch's records say.
            items: Its outcomes.
            besides: What is known of the images besides, as what is decided already.
            handed_over: The key of the object that the page may write: what people decide.
            seconds: For how long it may.

        Raises:
            StorageError: If it cannot be written.
        """
        store, signed = self._store, self._store.options.links == "signed"
        address, headers = store.marks.writable(handed_over, "application/json", seconds)
        images = (image.key for item in items for image in item.outcome.images if signed)
        review = Review(
            id=handed_over.rpartition("/")[2].removesuffix(".json"),
            place=store.uri(handed_over),
            address=address,
            headers=headers,
            until=datetime.now(UTC) + timedelta(seconds=seconds),
            links={key: link for key in images if (link := store.link(key))},
        )
        page = gallery_page(report, items, store, besides, review)
        with store.marks.unlogged():  # the page holds a signed address
            store.put(self._key, page, "text/html; charset=utf-8")
        self._show(report, items)

    def _show(self, report: RunReport, items: Sequence[GalleryItem]) -> None:
        link = self._store.link(self._key)
        page = f'<a href="{plain(link, None)}">Review page</a>' if link else "Review page"
        create_markdown_artifact(
            f"# Review of {plain(report.batch)}\n\n{page}: `{self.uri}`\n\nDecide there, "
            "hand over, and then choose Resume on the run's page.\n",
            key=artifact_key(report.batch, "review"),
            description=strip(report, items),
        )

    def tell(self, picks: Sequence[Pick], items: Sequence[GalleryItem]) -> None:
        """Tell in events what was decided."""
        by_key = {item.provenance.key: item for item in items if item.provenance is not None}
        for pick in picks:
            item = by_key.get(pick.prompt_key)
            payload = {
                **pick.model_dump(mode="json", exclude={"schema_version"}),
                "uri": self._store.uri(pick.key),
                "prompt": shortened(item.outcome.prompt.prompt) if item else None,
            }
            name = IMAGE_PICKED if pick.picked else IMAGE_REJECTED
            emit_event(name, batch_resource(self._batch), payload=payload)
