"""What a run leaves in Prefect's UI: a gallery, the credits with the balance, and a table of results.

Thumbnails are `data:` URLs, so they show when every address is dead. What was tried in the browser is
said where it decides something.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from prefect_nanobanana._common.naming import slug
from prefect_nanobanana._common.text import in_credits, number, plain, shortened, visible
from prefect_nanobanana.models import OutcomeStatus, PendingReport, RunReport, json_number
from prefect_nanobanana.report._item import GalleryItem
from prefect_nanobanana.report._summary import NAMES, balance_note, summary

ARTIFACT_BYTES = 900_000
"""Prefect's run page downloads every artifact whole: they are kept below 1 MB."""
ACROSS = 4
SHOWN_LINES = 200
PREVIEW_PIXELS = 1024
"""Ours have 256; what is larger is left as it is."""
STRIP_PICTURES = 24
STRIP_PIXELS = 64
STRIP_ACROSS = 4
STRIP_CHARACTERS = 20_000
"""The strip is an artifact's description, which Prefect's lists show: small pictures of 1 to 2 kB."""
_MARKS: dict[OutcomeStatus, str] = {
    "stored": "",
    "warning": "\u26a0\ufe0f warning",
    "failed": "\u274c failed",
    "unknown": "\u2753 unknown",
    "skipped": "skipped",
}

Link = Callable[[str], str | None]
"""Says where a person can open the object at a key."""


def artifact_key(batch: str, what: str = "") -> str:
    """The key of a batch's artifact: lower-case letters, digits and dashes."""
    return f"nanobanana-{slug(batch, 60)}" + (f"-{what}" if what else "")


def create_gallery(report: RunReport, items: Sequence[GalleryItem], link: Link) -> None:
    """Make the gallery's artifact.

    Args:
        report: The run's report.
        items: Its outcomes, with thumbnails.
        link: Says where pictures and pages can be opened.
    """
    create_markdown_artifact(
        gallery_markdown(report, items, link),
        key=artifact_key(report.batch),
        description=strip(report, items),
    )


def create_credits(report: RunReport) -> None:
    """Make the artifact that says what the run has cost."""
    create_markdown_artifact(
        credits_markdown(report),
        key=artifact_key(report.batch, "credits"),
        description=f"Credits: {in_credits(report.credits_used)} used; {balance_note(report)}.",
    )


def create_results(report: RunReport) -> None:
    """Make the table of results."""
    rows, left_out = table_rows(report)
    more = f"; {left_out} more are in the manifest" if left_out else ""
    create_table_artifact(
        rows,
        key=artifact_key(report.batch, "results"),
        description=f"One row per prompt{more}.",
    )


def create_pending(report: PendingReport) -> None:
    """Make the artifact that says which images are still owed."""
    message = summary(report)
    lines = "".join(f"- {plain(line)}\n" for line in report.messages[:SHOWN_LINES])
    more = len(report.messages) - SHOWN_LINES
    create_markdown_artifact(
        f"# Images still owed\n\n{message}\n\n{lines}" + (f"\n{more} more.\n" if more > 0 else ""),
        key="nanobanana-pending",
        description=message,
    )


def table_row(*cells: str) -> str:
    """A row of a table in markdown."""
    return "| " + " | ".join(cells) + " |"


def gallery_markdown(
    report: RunReport, items: Sequence[GalleryItem], link: Link = lambda _: None
) -> str:
    """The gallery: one cell per picture, and per prompt without one.

    Args:
        report: The run's report.
        items: Its outcomes, with thumbnails.
        link: Says where pictures and pages can be opened.
    """
    head = "\n".join(
        [
            f"# {plain(report.batch)}",
            "",
            f"{plain(summary(report))}",
            "",
            f"{_page('Gallery page', report.gallery_uri, link)}  ",
            _page("Manifest", report.manifest_uri, link),
            "",
            "",
        ]
    )
    cells: list[str] = []
    size, left_out = len(head.encode()), 0
    for item in items:
        for cell in _cells(item, link):
            size += len(cell.encode())
            if size > ARTIFACT_BYTES:
                left_out += 1
            else:
                cells.append(cell)
    rows = ["<tr>" + "".join(cells[i : i + ACROSS]) + "</tr>" for i in range(0, len(cells), ACROSS)]
    # One line, as a blank line would end the HTML block. Pictures in a table stand side by side, others
    # one below the other.
    table = "<table>" + "".join(rows) + "</table>\n" if rows else ""
    more = f"\n{left_out} more are in the gallery page in S3, and in its manifest.\n" if left_out else ""
    return f"{head}{table}{more}"


def credits_markdown(report: RunReport) -> str:
    """What the run has cost, by status, and whether that agrees with the account's balance."""
    lines = ["# Credits", "", "| | prompts | credits |", "| --- | ---: | ---: |"]
    split = report.credits_by_status
    for status, (name, _) in NAMES.items():
        these = [o for o in report.outcomes if o.status == status]
        if these:
            reused = sum(o.reused for o in these)
            earlier = f" ({reused} from earlier runs)" if reused else ""
            lines.append(f"| {name} | {len(these)}{earlier} | {number(split[status])} |")
    lines += [
        f"| **all, paid by this run** | **{report.prompts}** | **{number(report.credits_used)}** |",
        f"| of these without an image | | {number(report.credits_without_image)} |",
        f"| paid by earlier runs | | {number(split['reused'])} |",
        f"| at worst, for requests without an answer | | {number(report.credits_at_risk)} |",
        "",
        f"Balance before: {_known(report.balance_before)}, after: {_known(report.balance_after)}; "
        f"{balance_note(report)}.",
        "",
    ]
    return "\n".join(lines)


def table_rows(report: RunReport) -> tuple[list[dict[str, Any]], int]:
    """The table of results, and how many rows of it are left out."""
    rows: list[dict[str, Any]] = []
    size = 0
    for outcome in report.outcomes:
        row = {
            "#": outcome.position,
            "prompt": shortened(visible(outcome.prompt.name or outcome.prompt.prompt)),
            "status": outcome.status,
            "images": len(outcome.images),
            "credits": f"{number(outcome.credits_used)} (estimate)"
            if outcome.credits_estimated
            else json_number(outcome.credits_used),
            "paid": "earlier" if outcome.reused else "by this run",
            "message": shortened(visible(outcome.message or "")),
        }
        size += len(str(row).encode()) + 40
        if size > ARTIFACT_BYTES:
            break
        rows.append(row)
    return rows, len(report.outcomes) - len(rows)


def strip(report: RunReport, items: Sequence[GalleryItem]) -> str:
    """The gallery's description: the run page shows it, which makes its tab a gallery, too."""
    thumbnails = [thumbnail for item in items for thumbnail in item.thumbnails if thumbnail]
    smaller = [_smaller(thumbnail) for thumbnail in thumbnails[:STRIP_PICTURES]]
    pictures = [
        f'<img width="{STRIP_PIXELS}" src="{small}" alt="">'
        for small in smaller
        if len(small) <= STRIP_CHARACTERS
    ]
    more = len(thumbnails) - len(pictures)
    note = f" The first {len(pictures)} of {len(thumbnails)} pictures:" if more > 0 else ""
    line = f"{plain(summary(report))}.{note}"
    if not pictures:
        return line
    # In a table, as elsewhere the page shows one picture below the other.
    rows = [pictures[i : i + STRIP_ACROSS] for i in range(0, len(pictures), STRIP_ACROSS)]
    cells = "".join(f"<tr>{''.join(f'<td>{p}</td>' for p in row)}</tr>" for row in rows)
    return f"{line}\n\n<table>{cells}</table>\n"


def _page(name: str, uri: str | None, link: Link) -> str:
    address = link(uri.removeprefix("s3://").partition("/")[2]) if uri else None
    named = f'<a href="{plain(address, None)}">{name}</a>' if address else name
    shown = visible(uri).replace("`", "'") if uri else "could not be written"
    return f"{named}: `{shown}`"


def _smaller(thumbnail: str) -> str:
    head, _, body = thumbnail.partition(",")
    if head != "data:image/webp;base64":
        return thumbnail
    try:
        with Image.open(io.BytesIO(base64.b64decode(body)), formats=("WEBP",)) as image:
            if max(image.size) > PREVIEW_PIXELS:
                return thumbnail  # a picture in a record may be anybody's, and a bomb
            image.thumbnail((2 * STRIP_PIXELS, 2 * STRIP_PIXELS))
            out = io.BytesIO()
            image.save(out, "WEBP", quality=50)
    except (OSError, ValueError, Image.DecompressionBombError):
        return thumbnail
    return f"{head},{base64.b64encode(out.getvalue()).decode()}"


def _cells(item: GalleryItem, link: Link) -> list[str]:
    outcome = item.outcome
    shown = plain(outcome.prompt.prompt)
    cost = in_credits(outcome.credits_used)
    cost += " (estimate)" if outcome.credits_estimated else ""
    cost += " earlier" if outcome.reused else ""
    mark = f"<b>{_MARKS[outcome.status]}</b><br>" if _MARKS[outcome.status] else ""
    note = outcome.message or item.count_note
    why = f"<br><i>{plain(note)}</i>" if note else ""
    if not item.thumbnails:
        return [f'<td valign="top">{mark}{shown}<br>{cost}{why}</td>']
    many = len(item.thumbnails)
    of = [f"{n} of {many}, together {cost}" for n in range(1, many + 1)] if many > 1 else [cost]
    cells = []
    for image, thumbnail, which in zip(outcome.images, item.thumbnails, of, strict=True):
        picture = f'<img width="140" src="{thumbnail}" alt="picture">' if thumbnail else "picture"
        if not image.checked:
            picture = plain(f"{image.content_type}, not checked")
        address = link(image.key)
        if address is not None:
            picture = f'<a href="{plain(address, None)}">{picture}</a>'
        cells.append(f'<td valign="top">{picture}<br>{mark}{shown}<br>{which}{why}</td>')
    return cells


def _known(value: Any) -> str:
    return "not known" if value is None else number(value)
