"""What people see of a run."""

from prefect_nanobanana.report import _events as events
from prefect_nanobanana.report._artifacts import artifact_key, plain, publish_artifacts
from prefect_nanobanana.report._live import LiveArtifact, one_line_per_prompt
from prefect_nanobanana.report._report import GALLERY, MANIFEST, build_report, publish_pages
from prefect_nanobanana.report._text import GalleryItem, counted, in_credits, summary

__all__ = [
    "GALLERY",
    "MANIFEST",
    "GalleryItem",
    "LiveArtifact",
    "artifact_key",
    "build_report",
    "counted",
    "events",
    "in_credits",
    "one_line_per_prompt",
    "plain",
    "publish_artifacts",
    "publish_pages",
    "summary",
]
