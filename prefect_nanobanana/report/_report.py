"""Outcomes -> report, manifest and pages."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prefect_nanobanana.errors import BooksDoNotBalance, StorageError
from prefect_nanobanana.models import Credits, Outcome, RunReport
from prefect_nanobanana.report._gallery import gallery_page
from prefect_nanobanana.report._text import GalleryItem
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import Kind

MANIFEST = "manifest.jsonl"
GALLERY = "index.html"


def build_report(
    batch: str,
    prompts: int,
    outcomes: Sequence[Outcome],
    *,
    balance_before: Credits | None,
    balance_after: Credits | None,
    manifest_uri: str | None,
    gallery_uri: str | None,
) -> RunReport:
    """Add up what a run did.

    Args:
        batch: The batch's name.
        prompts: How many prompts there were.
        outcomes: One per prompt.
        balance_before: The account's credits before the run, if known.
        balance_after: The account's credits after the run, if known.
        manifest_uri: Where the manifest is.
        gallery_uri: Where the gallery is.

    Returns:
        The report.

    Raises:
        BooksDoNotBalance: If the outcomes are not one per prompt, in the order of the list.
    """
    if [o.position for o in outcomes] != list(range(1, prompts + 1)):
        raise BooksDoNotBalance(
            f"{prompts} prompts, but {len(outcomes)} outcomes at {[o.position for o in outcomes][:50]}: "
            "this is a bug of prefect-nanobanana; the records in S3 hold what was paid"
        )
    counts = Counter(o.status for o in outcomes)
    paid = [o for o in outcomes if not o.reused]
    seen = [
        o.generation.remaining_credits
        for o in paid
        if o.generation is not None and o.generation.remaining_credits is not None
    ]
    return RunReport(
        batch=batch,
        prompts=prompts,
        stored=counts["stored"],
        warnings=counts["warning"],
        failed=counts["failed"],
        unknown=counts["unknown"],
        skipped=counts["skipped"],
        images=sum(len(o.images) for o in outcomes),
        credits_used=sum(o.credits_used for o in paid),
        credits_reused=sum(o.credits_used for o in outcomes if o.reused),
        credits_without_image=sum(o.credits_used for o in paid if not o.images),
        remaining_credits=balance_after if balance_after is not None else min(seen, default=None),
        balance_before=balance_before,
        balance_after=balance_after,
        manifest_uri=manifest_uri,
        gallery_uri=gallery_uri,
        outcomes=tuple(outcomes),
    )


def manifest(outcomes: Sequence[Outcome]) -> bytes:
    """The manifest: one JSON object per prompt, in the order of the list."""
    rows = (
        json.dumps(outcome.model_dump(mode="json", exclude_none=True), ensure_ascii=False)
        for outcome in outcomes
    )
    return "".join(row + "\n" for row in rows).encode()


def publish_pages(
    report: RunReport,
    items: Sequence[GalleryItem],
    bucket: ObjectStore,
    logger: logging.Logger | logging.LoggerAdapter[Any],
) -> RunReport:
    """Write manifest and gallery; what cannot be written is said, and fails nothing.

    Returns:
        The report, without the address of what could not be written.
    """
    pages = {
        "gallery_uri": (GALLERY, "text/html; charset=utf-8", gallery_page(report, items, bucket)),
        "manifest_uri": (MANIFEST, "application/x-ndjson", manifest([item.outcome for item in items])),
    }
    for field, (name, content_type, body) in pages.items():
        try:
            kind: Kind = "page" if name == GALLERY else "record"
            bucket.put(bucket.key(report.batch, name), body, content_type, kind)
        except StorageError as error:
            logger.error("%s could not be written: %s", name, error)
            report = report.model_copy(update={field: None})
    return report
