"""The tables of batches that have changed, for a database that keeps up with a bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_nanobanana.errors import InvalidInput, StorageError
from prefect_nanobanana.manifest import _parquet
from prefect_nanobanana.manifest._batches import list_batches
from prefect_nanobanana.manifest._columns import IMAGE_COLUMNS, PROMPT_COLUMNS
from prefect_nanobanana.manifest._files import MANIFEST
from prefect_nanobanana.manifest._reader import read_prompts
from prefect_nanobanana.manifest._rows import Row, image_rows
from prefect_nanobanana.s3 import ObjectStore

if TYPE_CHECKING:
    from prefect_aws import S3Bucket


@dataclass(frozen=True)
class BatchTables:
    """What the manifest of a batch says, as rows of version 1, whatever version wrote it.

    Attributes:
        batch: The batch's name.
        tag: Tells versions of its manifest apart.
        prompts: A row for each prompt; docs/manifest.md says the columns.
        images: A row for each image.
    """

    batch: str
    tag: str
    prompts: list[Row]
    images: list[Row]

    def parquet(self) -> dict[str, bytes]:
        """Both tables as Parquet files: `prompts` and `images`.

        Raises:
            ImportError: If pyarrow is not installed: it is the extra `parquet`.
        """
        return {
            "prompts": _parquet.parquet(self.prompts, PROMPT_COLUMNS),
            "images": _parquet.parquet(self.images, IMAGE_COLUMNS),
        }


def changed_batches(bucket: S3Bucket, known: Mapping[str, str]) -> Iterator[BatchTables]:
    """Read the batches in a bucket's folder whose manifests are new, or have changed.

    A batch that was resumed has changed, and one that came late is new: both are found by what is in the
    bucket, not by when. A batch that is gone from the bucket is not told of.

    Args:
        bucket: The S3 Bucket block in which the batches are.
        known: The tag of each batch that is known, by its name: what `tag` was when it was read.

    Yields:
        The tables of one batch after the other, by name; each is to take the place of all rows of its
        batch.

    Raises:
        InvalidInput: After all others, if a manifest cannot be read; names it, and the line.
        StorageError: If the bucket cannot be listed.
    """
    store, problems = ObjectStore(bucket), list[str]()
    for batch in list_batches(store):
        # Of a store that lists no tags all are read each time.
        if batch.manifest is None or (batch.manifest and batch.manifest == known.get(batch.name)):
            continue
        key = store.key(batch.name, MANIFEST)
        try:
            found = store.find(key)
            prompts = list(read_prompts(batch.name, store.uri(key), found[0])) if found else None
        except InvalidInput as error:
            problems += error.problems
        except StorageError as error:
            problems.append(str(error))
        else:
            if prompts is not None:
                yield BatchTables(batch.name, batch.manifest, prompts, list(image_rows(prompts)))
    if problems:
        raise InvalidInput(*problems)
