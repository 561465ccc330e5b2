"""Alternative texts and captions of a batch's images."""

# No `from __future__ import annotations` here: a single `flow.serve()` would then fail every run.

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, cast

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed
from prefect_aws import S3Bucket
from pydantic import Field

from prefect_nanobanana._common.text import counted, without_signatures
from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.descriptions import (
    DescribedImage,
    Description,
    Descriptions,
    ImageToDescribe,
    find_describer,
)
from prefect_nanobanana.errors import NanoBananaError
from prefect_nanobanana.flows._call import Logger
from prefect_nanobanana.flows._publish import publish_recorded, recorded_items
from prefect_nanobanana.flows._stored import read_image
from prefect_nanobanana.retention import RemovedImages, removal_of
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.storage_options import StorageOptions

SAVE_EVERY = 20
"""After so many images what was said is noted, should the run be killed: a describer may cost money."""


@flow(name="describe_images", persist_result=False)
def describe_images(
    *,
    batch: str,
    bucket: S3Bucket,
    describer: Annotated[str, Field(min_length=1, max_length=200)] = "prompt",
    again: bool = False,
    storage: StorageOptions = StorageOptions(),  # noqa: B008  # frozen, and shown in the form
) -> int:
    """Say what a batch's images show: alternative texts and captions, in manifest and gallery.

    What was described once is not described again. Costs no credits; a describer of yours may cost what
    its own service asks.

    Args:
        batch: The batch's name.
        bucket: The S3 Bucket block in which it is.
        describer: The name of the function that does it: prompt takes the text that was asked for;
            others come from packages, by the entry points prefect_nanobanana.describers.
        again: Whether images that are described already are described anew.
        storage: How objects are stored, beyond what the bucket does by itself: as for the batch.

    Returns:
        How many images were described.

    Raises:
        InvalidInput: If there is no such batch or describer.
        StorageError: If the bucket cannot be used.
        LedgerError: If a record cannot be read.
        NanoBananaError: After all others, if an image could not be described.
    """
    logger = get_run_logger()
    describe = find_describer(describer)
    store = ObjectStore(bucket, storage)
    ledger = Ledger.open(store, batch)
    descriptions = Descriptions(store, ledger.batch)
    known = {} if again else descriptions.read()
    new, made, failed = list[DescribedImage](), 0, list[str]()
    for wanted in _images(ledger, logger):
        image = wanted.image
        if image.sha256 in known:
            continue
        try:
            # Whatever the function does: what it returns must be a description.
            said = Description.model_validate(describe(wanted))
        except Exception as error:  # one that fails prevents no other
            why = f"{image.uri}: {type(error).__name__}: {_text(error)}"
            logger.warning("Not described: %s", why)
            failed.append(why)
            continue
        except BaseException:  # it ends the run, and what it has cost so far is kept
            descriptions.add(new)
            raise
        new.append(
            DescribedImage(
                key=image.key,
                sha256=image.sha256,
                alt_text=said.alt_text,
                caption=said.caption,
                described_at=datetime.now(UTC),
                describer=describer,
            )
        )
        made += 1
        if len(new) == SAVE_EVERY:
            descriptions.add(new)
            new = []
    descriptions.add(new)
    if made:
        publish_recorded(store, ledger.batch, logger)
    message = f"{counted(made, 'image')} described"
    if failed:
        message += f", {len(failed)} not; first {failed[0]}"
        return cast(int, Failed(message=message, data=NanoBananaError(message)))
    return cast(int, Completed(message=message, data=made))


def _images(ledger: Ledger, logger: Logger) -> Iterator[ImageToDescribe]:
    removed = RemovedImages(ledger.store, ledger.batch).read()
    for item in recorded_items(ledger, logger):
        outcome = item.outcome
        for image in outcome.images:
            if removal_of(image, removed) is None:
                yield ImageToDescribe(
                    image,
                    outcome.prompt.prompt,
                    outcome.prompt.name,
                    partial(read_image, ledger.store, image),
                )


def _text(error: Exception) -> str:
    try:
        return without_signatures(str(error))[:300]
    except Exception:  # it is somebody else's
        return "it cannot say why"
