"""What people see of a run: its report, pages in S3, artifacts, live progress and events in Prefect."""

from prefect_nanobanana.report._events import emit_image_missing, emit_image_stored
from prefect_nanobanana.report._folder import FolderPublisher
from prefect_nanobanana.report._item import GalleryItem
from prefect_nanobanana.report._publisher import Publisher
from prefect_nanobanana.report._summary import summary

__all__ = [
    "FolderPublisher",
    "GalleryItem",
    "Publisher",
    "emit_image_missing",
    "emit_image_stored",
    "summary",
]
