"""Publishes a run: pages in S3, artifacts, an asset and events in Prefect.

All of it comes after the credits are spent. So each part stands alone: one that cannot be published is
logged and named in the report, and prevents neither the others nor the run's end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from itertools import chain
from typing import Any

from prefect_nanobanana._common.daemon_pool import beside
from prefect_nanobanana._common.untrusted import is_below
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.credentials import NanoBananaCredentials
from prefect_nanobanana.derived import DERIVED, DerivedImage, DerivedImages
from prefect_nanobanana.descriptions import DESCRIPTIONS, DescribedImage, Descriptions
from prefect_nanobanana.manifest import MANIFEST, Besides, ManifestFiles
from prefect_nanobanana.models import Caller, Charge, Credits, Part, Plan, RunReport
from prefect_nanobanana.picks import PICKS, ImageId, Pick, Picks
from prefect_nanobanana.report._account_page import account_credits
from prefect_nanobanana.report._artifacts import (
    artifact_key,
    create_credits,
    create_gallery,
    create_results,
)
from prefect_nanobanana.report._credits_page import create_account_credits
from prefect_nanobanana.report._events import emit_batch_published, emit_credits_low, emit_run_finished
from prefect_nanobanana.report._gallery import gallery_page
from prefect_nanobanana.report._item import GalleryItem
from prefect_nanobanana.report._lineage import materialize_asset
from prefect_nanobanana.report._live import LiveArtifact
from prefect_nanobanana.report._plan_page import create_plan
from prefect_nanobanana.report._published import ACCOUNT, Logger, published
from prefect_nanobanana.report._report import build_report
from prefect_nanobanana.report._review import ReviewPages
from prefect_nanobanana.report._summary import summary
from prefect_nanobanana.retention import REMOVED, RemovedImage, RemovedImages
from prefect_nanobanana.s3 import ObjectStore

GALLERY = "index.html"
PLAN = "artifact plan"
PREPARE_AFTER_SECONDS = 2.0
"""The first requests have left then."""
PLAN_SECONDS = ACCOUNT_SECONDS = 10.0
"""A server or a store that does not answer holds up the end of a run for no longer."""


class Publisher:
    """Shows one batch to people.

    Args:
        store: Where the batch lies.
        batch: Its name.
        logger: Where to say what cannot be published.
    """

    def __init__(self, store: ObjectStore, batch: str, logger: Logger) -> None:
        self._store = store
        self._batch = batch
        self._logger = logger
        self._beside: Future[None] | None = None
        self._without_plan = False

    @property
    def review(self) -> ReviewPages:
        """What people see of a review of the batch."""
        return ReviewPages(self._store, self._batch)

    def has_published(self) -> bool:
        """Whether a run of the batch has come to its end: its manifest is there.

        Raises:
            StorageError: If that cannot be had.
        """
        return self._store.head(self._key(MANIFEST)) is not None

    def say_plan(self, plan: Plan, part: Part | None = None) -> None:
        """Say in the log what is to be done, and what that costs."""
        what = "" if part is None else f", part {part.number} of {part.of}"
        self._logger.info("Batch %r%s: %s", plan.batch, what, summary(plan))

    def show_plan(self, plan: Plan) -> None:
        """Show the same in Prefect's UI."""
        if not self._tried(PLAN, lambda: create_plan(plan)):
            self._without_plan = True

    def show_plan_beside(self, plan: Plan) -> None:
        """The same, while the run goes on: it waits for that only before it is published."""
        later = threading.Timer(PREPARE_AFTER_SECONDS, ManifestFiles.prepare)
        later.daemon = True
        later.start()
        self._beside = beside(lambda: self.show_plan(plan), "plan")

    def live(self) -> LiveArtifact:
        """The run's progress in Prefect's UI: a watcher, to be used in a `with` statement."""
        return LiveArtifact(artifact_key(self._batch, "progress"), self._logger)

    def report(
        self,
        items: Sequence[GalleryItem],
        *,
        prompts: int | None = None,
        balance_before: Credits | None = None,
        balance_after: Credits | None = None,
    ) -> RunReport:
        """Add up what a run did.

        Args:
            items: One per prompt, in the order of the list.
            prompts: How many prompts there were; by default one per item.
            balance_before: The account's credits before the run, if known.
            balance_after: The account's credits after the run, if known.

        Raises:
            BooksDoNotBalance: If the outcomes are not one per prompt, in the order of the list.
        """
        return build_report(
            self._batch,
            len(items) if prompts is None else prompts,
            items,
            balance_before=balance_before,
            balance_after=balance_after,
            manifest_uri=self._store.uri(self._key(MANIFEST)),
            gallery_uri=self._store.uri(self._key(GALLERY)),
        )

    def publish(
        self,
        report: RunReport,
        items: Sequence[GalleryItem],
        credentials: NanoBananaCredentials,
        charges: Iterable[Charge] | None = (),
        budget: NanoBananaBudget | None = None,
        *,
        caller: Caller | None = None,
        source: str | None = None,
    ) -> RunReport:
        """Publish all that people see of a run: pages, asset, artifacts, events.

        Args:
            report: The run's report.
            items: The run's outcomes, and after them those of earlier lists of the batch.
            credentials: Whose account it was: too few credits left in it are an event.
            charges: What all requests of the batch have cost; None if that is not known.
            budget: What the run has shared with others.
            caller: Whom it was made for.
            source: Where the list of prompts came from, if it was a file.

        Returns:
            The report, which names what could not be published.
        """
        if self._beside is not None:
            wait([self._beside], PLAN_SECONDS)  # the first artifact of a run is the first in its lists
            self._without_plan = self._without_plan or not self._beside.done()
        before = (PLAN,) if self._without_plan else ()
        batches = [(self._batch, charges)] if charges is not None else []
        left = budget.summary if budget is not None else None
        spent = beside(
            lambda: account_credits(self._store, credentials.account, batches, left), "statements"
        )
        report = self.publish_pages(report, items)
        its, caller = items[: report.prompts], caller or Caller()
        failed = [
            what
            for what, publish in (
                ("asset", lambda: materialize_asset(report, its, self._store, caller, source)),
                # The run page shows the newest artifact first.
                (
                    ACCOUNT,
                    lambda: create_account_credits(
                        spent.result(ACCOUNT_SECONDS), report.remaining_credits
                    ),
                ),
                ("artifact results", lambda: create_results(report)),
                ("artifact credits", lambda: create_credits(report)),
                ("artifact gallery", lambda: create_gallery(report, its, self._link)),
            )
            if not self._tried(what, publish)
        ]
        report = report.model_copy(update={"unpublished": (*before, *report.unpublished, *failed)})
        self._tried("event run.finished", lambda: emit_run_finished(report, summary(report)))
        self._tried("event credits.low", lambda: self._warn_of_few_credits(report, credentials))
        return report

    def publish_pages(self, report: RunReport, items: Sequence[GalleryItem]) -> RunReport:
        """Write gallery and manifest.

        Args:
            report: The run's report.
            items: Its outcomes, and after them those of earlier lists of the batch.

        Returns:
            The report, without the address of what could not be written.
        """

        besides = self._besides()

        def write_gallery() -> None:
            picks = besides.picks
            if self._store.options.is_public:
                picks = {k: p.model_copy(update={"note": None}) for k, p in picks.items()}
            page = gallery_page(report, items, self._store, replace(besides, picks=picks))
            self._store.put(self._key(GALLERY), page, "text/html; charset=utf-8", "page")

        fields = {GALLERY: "gallery_uri", MANIFEST: "manifest_uri"}
        files = ManifestFiles(self._store, self._batch, items, besides).writers()
        writers = chain([(GALLERY, write_gallery)], files)
        failed = [name for name, write in writers if not self._tried(name, write)]
        changes: dict[str, Any] = {fields[name]: None for name in failed if name in fields}
        return report.model_copy(update={**changes, "unpublished": (*report.unpublished, *failed)})

    def publish_again(self, report: RunReport, items: Sequence[GalleryItem]) -> RunReport:
        """The same at another time than a run's end, which is an event of its own."""
        report = self.publish_pages(report, items)
        self._tried("event batch.published", lambda: emit_batch_published(report))
        return report

    def _besides(self) -> Besides:
        picks: dict[ImageId, Pick] = {}
        derived: dict[str, list[DerivedImage]] = {}
        removed: dict[str, RemovedImage] = {}
        descriptions: dict[str, DescribedImage] = {}
        where = self._store, self._batch
        for name, read in (
            (PICKS, lambda: picks.update(Picks(*where).read())),
            (DERIVED, lambda: derived.update(DerivedImages(*where).by_source())),
            (REMOVED, lambda: removed.update(RemovedImages(*where).read())),
            (DESCRIPTIONS, lambda: descriptions.update(Descriptions(*where).read())),
        ):
            self._tried(name, read)  # nothing if that cannot be read, which is said
        return Besides(self._store.uri(""), picks, derived, removed, descriptions)

    def _key(self, *parts: str) -> str:
        return self._store.key(self._batch, *parts)

    def _link(self, key: str) -> str | None:
        # A record could name any object that we may read: links are made to the batch's own alone.
        return self._store.link(key) if is_below(key, self._key()) else None

    def _tried(self, what: str, publish: Callable[[], object]) -> bool:
        return published(what, publish, self._logger)

    def _warn_of_few_credits(self, report: RunReport, credentials: NanoBananaCredentials) -> None:
        left = report.remaining_credits
        if left is not None and left < credentials.low_credits:
            emit_credits_low(credentials.account, self._batch, left, credentials.low_credits)
