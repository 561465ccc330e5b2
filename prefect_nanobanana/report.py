"""Outcomes -> report, manifest and artifact; `_gallery` makes the gallery page."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prefect_nanobanana._gallery import gallery_page
from prefect_nanobanana._s3 import Bucket
from prefect_nanobanana._words import NAMES, Told, books, in_credits, summary
from prefect_nanobanana.errors import BooksDoNotBalance, StorageError
from prefect_nanobanana.models import Credits, Outcome, RunReport
from prefect_nanobanana.storage_options import Kind

ARTIFACT_BYTES = 900_000
"""Prefect's run page downloads every artifact whole: they are kept below 1 MB."""
MANIFEST = "manifest.jsonl"
GALLERY = "index.html"
ACROSS = 4
SHOWN_CHARACTERS = 200


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
    told: Sequence[Told],
    bucket: Bucket,
    logger: logging.Logger | logging.LoggerAdapter[Any],
) -> RunReport:
    """Write manifest and gallery; what cannot be written is said, and fails nothing.

    Returns:
        The report, without the address of what could not be written.
    """
    pages = {
        "gallery_uri": (GALLERY, "text/html; charset=utf-8", gallery_page(report, told, bucket)),
        "manifest_uri": (MANIFEST, "application/x-ndjson", manifest([item.outcome for item in told])),
    }
    for field, (name, content_type, body) in pages.items():
        try:
            kind: Kind = "page" if name == GALLERY else "record"
            bucket.put(bucket.key(report.batch, name), body, content_type, kind)
        except StorageError as error:
            logger.error("%s could not be written: %s", name, error)
            report = report.model_copy(update={field: None})
    return report


def artifact_markdown(report: RunReport, told: Sequence[Told]) -> str:
    """The run's markdown artifact: what it cost, and a gallery that outlives every URL."""
    lines = [
        f"# {report.batch}",
        "",
        summary(report),
        "",
        "| | prompts | credits |",
        "| --- | ---: | ---: |",
    ]
    split = report.credits_by_status
    for status, (name, _) in NAMES.items():
        these = [o for o in report.outcomes if o.status == status]
        if these:
            reused = sum(o.reused for o in these)
            earlier = f" ({reused} from earlier runs)" if reused else ""
            lines.append(f"| {name} | {len(these)}{earlier} | {split[status]} |")
    lines += [
        f"| **all** | **{report.prompts}** | **{report.credits_used}** |",
        f"| paid by earlier runs | | {split['reused']} |",
        f"| at worst, for requests without an answer | | {report.credits_at_risk} |",
        "",
        f"Balance before: {_known(report.balance_before)}, after: {_known(report.balance_after)}; "
        f"{books(report)}.",
        "",
        f"Gallery: `{report.gallery_uri}`  ",
        f"Manifest: `{report.manifest_uri}`",
        "",
    ]
    head = "\n".join(lines)
    cells: list[str] = []
    size, left_out = len(head.encode()), 0
    for item in told:
        for cell in _cells(item):
            size += len(cell.encode())
            if size > ARTIFACT_BYTES:
                left_out += 1
            else:
                cells.append(cell)
    rows = ["<tr>" + "".join(cells[i : i + ACROSS]) + "</tr>" for i in range(0, len(cells), ACROSS)]
    # One line, as a blank line would end the HTML block.
    table = "<table>" + "".join(rows) + "</table>\n" if rows else ""
    more = f"\n{left_out} more pictures are in the gallery page.\n" if left_out else ""
    return f"{head}\n{table}{more}"


def _cells(item: Told) -> list[str]:
    outcome = item.outcome
    shown = plain(outcome.prompt.prompt)
    cost = in_credits(outcome.credits_used) + (" earlier" if outcome.reused else "")
    if not item.thumbnails:
        why = plain(outcome.message or "")
        return [f"<td><b>{outcome.status}</b><br>{shown}<br>{cost}<br><i>{why}</i></td>"]
    many = len(item.thumbnails)
    of = [f"{n} of {many}, together {cost}" for n in range(1, many + 1)] if many > 1 else [cost]
    return [
        f'<td><img width="140" src="{thumbnail}" alt="picture"><br>{shown}<br>{which}</td>'
        for thumbnail, which in zip(item.thumbnails, of, strict=True)
    ]


def plain(text: str) -> str:
    """A text as a table cell in markdown shows it to the letter, cut to a bearable length."""
    short = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
    # Markdown's own signs would be read inside a table cell too.
    plain = "".join(f"&#{ord(c)};" if c in "&<>\"'*_`[]|~#\\$" else c for c in short)
    return "<br>".join(plain.splitlines())


def _known(value: Any) -> str:
    return "not known" if value is None else str(value)
