"""What batches hold, and what policies have done with it, as a page in Prefect's UI."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from prefect_nanobanana._common.naming import slug
from prefect_nanobanana._common.text import in_bytes, number, plain
from prefect_nanobanana.models import BatchUsage, RetentionReport
from prefect_nanobanana.report._artifacts import ARTIFACT_BYTES, table_row
from prefect_nanobanana.report._summary import summary

_HEAD = (
    "| batch | last written | prompts | images | size | copies | credits | kept | rejected | undecided "
    "| removed | named now |",
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def retention_markdown(report: RetentionReport, place: str) -> str:
    """The page: a row per batch, the largest first.

    Args:
        report: What was found.
        place: The address of the folder.
    """
    said = (
        "Nothing was changed." if report.dry_run else "What has gone is in each batch's removed.jsonl."
    )
    parts = [
        "# Batches",
        f"**{plain(summary(report), None)}**",
        f"All batches in {plain(place)}. {said}",
    ]
    if report.problems:
        parts.append("## Problems\n\n" + "\n".join(f"- {plain(p, 300)}" for p in report.problems[:20]))
    lines, size = ["\n\n".join(parts), "", *_HEAD], 2_000
    batches = sorted(report.batches, key=lambda each: (-each.image_bytes, each.batch))
    for count, each in enumerate(batches):
        row = _row(each)
        size += len(row.encode()) + 1
        if size > ARTIFACT_BYTES:
            lines += ["", f"The {count} largest of {len(batches)}."]
            break
        lines.append(row)
    return "\n".join(lines) + "\n"


def create_retention(report: RetentionReport, place: str) -> None:
    """Make the artifact that says what batches hold, and what has gone.

    Args:
        report: What was found.
        place: The address of the folder.
    """
    create_markdown_artifact(
        retention_markdown(report, place),
        key=f"nanobanana-batches-{slug(place.removeprefix('s3://'), 60)}",
        description=plain(f"{summary(report)}.", None),
    )


def _row(each: BatchUsage) -> str:
    undecided = max(0, each.images - each.kept - each.rejected)
    due = f"{each.due} ({in_bytes(each.due_bytes)})" if each.due else ""
    return table_row(
        plain(each.batch),
        f"{each.written_at:%Y-%m-%d}",
        str(each.prompts),
        str(each.images),
        in_bytes(each.image_bytes),
        f"{each.copies} ({in_bytes(each.copies_bytes)})" if each.copies else "",
        "not known" if each.credits is None else number(each.credits),
        str(each.kept or ""),
        str(each.rejected or ""),
        str(undecided or ""),
        str(each.removed or ""),
        due,
    )
