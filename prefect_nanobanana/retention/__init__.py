"""What was moved away or deleted of a batch's images, and what policies name next."""

from prefect_nanobanana.retention._due import DueImage, RecordedImage, due_images, names_batch
from prefect_nanobanana.retention._removed import REMOVED, RemovedImage, RemovedImages, removal_of

__all__ = [
    "REMOVED",
    "DueImage",
    "RecordedImage",
    "RemovedImage",
    "RemovedImages",
    "due_images",
    "names_batch",
    "removal_of",
]
