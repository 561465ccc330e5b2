"""Smaller copies of a batch's images, for pages and shops."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, cast

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed
from prefect_aws import S3Bucket
from pydantic import Field

from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.derived import DerivedImage, DerivedImages
from prefect_nanobanana.errors import ImageNotCopied, InvalidInput
from prefect_nanobanana.flows._call import Logger
from prefect_nanobanana.flows._publish import publish_recorded, recorded_items
from prefect_nanobanana.flows._stored import read_image
from prefect_nanobanana.images import Format, smaller_copies
from prefect_nanobanana.models import DIGITAL_SOURCE_TYPE, StoredImage
from prefect_nanobanana.picks import Picks
from prefect_nanobanana.retention import RemovedImages, removal_of
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions

SAVE_EVERY = 100
"""After so many images what was made is noted, should the run be killed."""
Width = Annotated[int, Field(ge=16, le=16_384)]


@flow(name="derive_sizes", persist_result=False)
def derive_sizes(
    *,
    batch: str,
    bucket: S3Bucket,
    widths: Annotated[list[Width], Field(min_length=1, max_length=10)] = [640, 1280],  # noqa: B006
    formats: Annotated[list[Format], Field(min_length=1)] = ["webp"],  # noqa: B006
    quality: Annotated[int, Field(ge=1, le=100)] = 80,
    only_picked: bool = False,
    storage: StorageOptions = StorageOptions(),  # noqa: B008  # frozen, and shown in the form
) -> int:
    """Make smaller copies of a batch's images. Costs no credits; the images stay as they are.

    What was made once is not made again. Run it once at a time for a batch.

    Args:
        batch: The batch's name.
        bucket: The S3 Bucket block in which it is.
        widths: In pixels. No copy is wider than its image.
        formats: webp, jpeg or avif; one copy of each width in each.
        quality: From 1 to 100.
        only_picked: Whether only of images that people have kept.
        storage: How objects are stored, beyond what the bucket does by itself: as for the batch.

    Returns:
        How many copies were made.

    Raises:
        InvalidInput: If there is no such batch.
        StorageError: If the bucket cannot be used.
        LedgerError: If a record cannot be read.
        ImageNotCopied: After all others, if no copy could be made of an image.
    """
    logger = get_run_logger()
    store = ObjectStore(bucket, storage)
    ledger = Ledger.open(store, batch)
    derived = DerivedImages(store, ledger.batch)
    there = {each.wish: each for each in derived.read()}
    wishes = [(width, name) for width in dict.fromkeys(widths) for name in dict.fromkeys(formats)]
    made, failed = 0, list[str]()
    for image in _images(ledger, logger, only_picked):
        missing = [w for w in wishes if _wish(image, *w, quality) not in there]
        try:
            new = _derive(store, derived, image, missing, quality)
        except InvalidInput as error:
            failed.append(f"{image.uri}: {error}")
            continue
        there |= {each.wish: each for each in new}
        made += len(new)
        if new and made % SAVE_EVERY < len(new):
            derived.write(there.values())
    if made:
        derived.write(there.values())
        publish_recorded(store, ledger.batch, logger)
    message = f"{made} copies made"
    if failed:
        message += f", none of {len(failed)} images; first {failed[0]}"
        return cast(int, Failed(message=message, data=ImageNotCopied(message)))
    return cast(int, Completed(message=message, data=made))


def _images(ledger: Ledger, logger: Logger, only_picked: bool) -> Iterator[StoredImage]:
    items, removed = recorded_items(ledger, logger), RemovedImages(ledger.store, ledger.batch).read()
    picks = Picks(ledger.store, ledger.batch).read() if only_picked else {}
    for item in items:
        for known, image in zip(item.image_ids, item.outcome.images, strict=True):
            pick = picks.get(known) if known is not None else None
            kept = pick is not None and pick.picked and pick.is_on(image)
            if image.checked and removal_of(image, removed) is None and (kept or not only_picked):
                yield image


def _wish(image: StoredImage, width: int, name: Format, quality: int) -> Any:
    return image.key, image.sha256, width, f"image/{name}", quality


def _derive(
    store: ObjectStore,
    derived: DerivedImages,
    image: StoredImage,
    wishes: list[tuple[int, Format]],
    quality: int,
) -> list[DerivedImage]:
    """Make the copies of one image that are missing, one image in memory at a time."""
    if not wishes:
        return []
    content = read_image(store, image)
    made, stem = [], image.key.rpartition("/")[2].rpartition(".")[0]
    copies = smaller_copies(content, wishes, quality)
    for (width, name), copy in zip(wishes, copies, strict=True):
        key = derived.key(f"{stem}-{width}-q{quality}.{name}")
        metadata = {"sha256": copy.sha256, "digital-source-type": DIGITAL_SOURCE_TYPE}
        store.put(key, copy.content, copy.content_type, "image", Metadata=metadata)
        made.append(
            DerivedImage(
                source=image.key,
                source_sha256=image.sha256,
                key=key,
                content_type=copy.content_type,
                width=copy.width,
                height=copy.height,
                size_bytes=len(copy.content),
                sha256=copy.sha256,
                asked_width=width,
                quality=quality,
                made_at=datetime.now(UTC),
            )
        )
    return made
