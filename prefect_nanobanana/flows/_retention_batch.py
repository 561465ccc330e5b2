"""One batch of which images go: which ones policies name, and how they are removed."""

# No `from __future__ import annotations` here, as in every module of the flows.

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from hashlib import sha256

from prefect_nanobanana._common.text import counted
from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.flows._call import Logger
from prefect_nanobanana.flows._publish import recorded_items
from prefect_nanobanana.manifest import ListedBatch
from prefect_nanobanana.models import RetentionPolicy, StoredImage
from prefect_nanobanana.picks import ImageId, Pick, Picks
from prefect_nanobanana.report import GalleryItem
from prefect_nanobanana.retention import (
    DueImage,
    RecordedImage,
    RemovedImage,
    RemovedImages,
    due_images,
)
from prefect_nanobanana.s3 import ObjectStore, StoredObject

AT_ONCE = 200
"""So many images are written down, and then removed."""
MOVED = "moved"
"""The folder for what is moved, below that of the policy and the batch's name."""


class BatchRetention:
    """Removes images of one batch.

    Args:
        store: Where it is.
        batch: The batch, as it is listed.
        now: The time that ages are counted to.
        run: The flow run's id.
        logger: The flow run's.
    """

    def __init__(
        self,
        store: ObjectStore,
        batch: ListedBatch,
        now: datetime,
        run: str | None,
        logger: Logger,
    ) -> None:
        self._store = store
        self._batch = batch
        self._now = now
        self._run = run
        self._logger = logger
        self._folder = store.key(batch.name, "images")
        self._file = RemovedImages(store, batch.name)
        self.failed: list[str] = []

    def due(self, policies: Sequence[RetentionPolicy]) -> tuple[list[DueImage], str | None]:
        """What policies name now, and what is odd about the rest."""
        soonest = timedelta(days=min(policy.after_days for policy in policies))
        if self._now - self._batch.written < soonest:
            return [], None
        # Listed anew: batches are many, and a run may have begun since.
        listed = list(self._store.keys(self._folder + "/"))
        records = self._store.keys(self._store.key(self._batch.name, "records") + "/")
        written = max((each.written for each in (*listed, *records)), default=self._now)
        items = recorded_items(Ledger(self._store, self._batch.name), self._logger)
        picks = Picks(self._store, self._batch.name).read()
        due, odd = due_images(
            self._batch.name,
            [
                RecordedImage(*known, image, _on(image, picks.get(known)))
                for known, image in _images(items)
            ],
            {each.key: each.size for each in listed},
            self._folder,
            policies,
            written,
            self._now,
        )
        what = "stay, as they are not what their records say: first"
        return due, f"{len(odd)} of {counted(len(listed), 'image')} {what} {odd[0]}" if odd else None

    def remove(self, due: Sequence[DueImage]) -> Iterator[list[RemovedImage]]:
        """Remove images; yields what has gone, some at a time."""
        for start in range(0, len(due), AT_ONCE):
            picks = Picks(self._store, self._batch.name).read()
            lines: list[RemovedImage] = []
            for each in due[start : start + AT_ONCE]:
                recorded = each.recorded
                known = recorded.prompt_key, recorded.place
                if _on(recorded.image, picks.get(known)) != recorded.pick:
                    continue  # somebody has just decided on it
                try:
                    lines.append(self._prepared(each))
                except StorageError as error:
                    self.failed.append(str(error))
            # First the lines, then the objects: nothing is gone that no line names.
            self._file.add(lines)
            yield self._removed(lines)

    def _prepared(self, due: DueImage) -> RemovedImage:
        """The line of an image that goes; of one that is moved, its copy is there.

        Raises:
            StorageError: If it is no longer what its record says, or cannot be copied.
        """
        recorded, policy = due.recorded, due.policy
        image, line = recorded.image, self._line(recorded, policy)
        there = self._store.head(image.key)
        if (
            there is None
            or there.size != image.size_bytes
            or self._hash(image.key, there) != image.sha256
        ):
            raise StorageError(f"{image.uri}: is not what its record says")
        if policy.action == "move":
            # No batch has objects there, whatever its name is.
            to = self._store.key(policy.to, self._batch.name, MOVED, image.key.rpartition("/")[2])
            copy = self._store.head(to)
            if copy is None:
                self._store.marks.copy(image.key, to)
                copy = self._store.head(to)
            if copy is None or copy.size != there.size or self._hash(to, copy) != image.sha256:
                raise StorageError(f"{image.uri}: {self._store.uri(to)} is there, and is not the same")
            line = line.model_copy(update={"moved_to": self._store.uri(to)})
        return line

    def _hash(self, key: str, there: StoredObject) -> str:
        """The hash of an image's bytes, as its object says it; else they are read."""
        if said := there.metadata.get("sha256"):
            return said
        found = sha256()
        for piece in self._store.read(key):
            found.update(piece)
        return found.hexdigest()

    def _removed(self, lines: Sequence[RemovedImage]) -> list[RemovedImage]:
        gone = []
        for line in lines:
            try:
                self._store.remove(line.key)
            except StorageError as error:  # the line stays: who knows whether the store has done it
                self.failed.append(str(error))
            else:
                gone.append(line)
        return gone

    def _line(self, recorded: RecordedImage, policy: RetentionPolicy) -> RemovedImage:
        image = recorded.image
        return RemovedImage(
            batch=self._batch.name,
            prompt_key=recorded.prompt_key,
            place=recorded.place,
            key=image.key,
            sha256=image.sha256,
            size_bytes=image.size_bytes,
            action="moved" if policy.action == "move" else "deleted",
            picked=recorded.pick.picked if recorded.pick is not None else None,
            policy=policy.model_dump_json(),
            at=self._now,
            run=self._run,
        )


def _on(image: StoredImage, pick: Pick | None) -> Pick | None:
    """What was decided on the bytes of an image, if anything was."""
    return pick if pick is not None and pick.is_on(image) else None


def _images(items: Sequence[GalleryItem]) -> Iterator[tuple[ImageId, StoredImage]]:
    """The images of outcomes that are known by something."""
    for item in items:
        for known, image in zip(item.image_ids, item.outcome.images, strict=True):
            if known is not None:
                yield known, image
