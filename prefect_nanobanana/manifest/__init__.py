"""The manifest of a batch: what became of each prompt and image, as rows that programs read."""

from prefect_nanobanana.manifest._batches import ListedBatch, list_batches
from prefect_nanobanana.manifest._besides import Besides
from prefect_nanobanana.manifest._changes import BatchTables, changed_batches
from prefect_nanobanana.manifest._columns import IMAGE_COLUMNS, PROMPT_COLUMNS
from prefect_nanobanana.manifest._files import MANIFEST, ManifestFiles

__all__ = [
    "IMAGE_COLUMNS",
    "MANIFEST",
    "PROMPT_COLUMNS",
    "BatchTables",
    "Besides",
    "ListedBatch",
    "ManifestFiles",
    "changed_batches",
    "list_batches",
]
