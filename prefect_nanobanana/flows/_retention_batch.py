"""One batch of which images go: which ones policies name, and how they are removed."""

# No `from __future__ import annotations` here, as in every module of the flows.

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from hashlib import sha256

from prefect_nanobanana._common.text import counted
from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.derived import DerivedImage, DerivedImages
from prefect_nanobanana.errors import StorageError
from prefect_nanobanana.flows._call import Logger
from prefect_nanobanana.flows._publish import recorded_items
from prefect_nanobanana.manifest import ListedBatch
from prefect_nanobanana.models import RetentionPolicy, StoredImage
from prefect_nanobanana.picks import ImageId, Picks
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


class BatchRetention:
    """Removes images of one batch.

    Args:
        store: Where it is.
        batch: The batch, as it is listed.
        now: The time that ages are counted to.
        run: The flow run's id.
        logger: The flow run's.

    Raises:
        InvalidInput: If what was removed before cannot be read.
        StorageError: If the bucket cannot be used.
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
        self._copies = DerivedImages(store, batch.name)
        self._listed: dict[str, int] | None = None
        self.gone = self._file.read()
        self.failed: list[str] = []

    @property
    def sizes(self) -> dict[str, int]:
        """What lies in its folder `images/`: sizes in bytes, by key."""
        if self._listed is None:
            self._listed = {each.key: each.size for each in self._store.keys(self._folder + "/")}
        return self._listed

    @property
    def removed(self) -> int:
        """How many of its images are gone."""
        return sum(not line.is_smaller_copy for line in self.gone.values())

    def note_found(self) -> None:
        """Note of what is there again that it is."""
        back = [line for key, line in self.gone.items() if key in self.sizes]
        self._add(line.model_copy(update=self._stamp("found")) for line in back)

    def due(self, policies: Sequence[RetentionPolicy]) -> tuple[list[DueImage], str | None]:
        """What policies name now, and what is odd about the rest."""
        soonest = timedelta(days=min(policy.after_days for policy in policies))
        if self._now - self._batch.written < soonest:
            return [], None
        picks = Picks(self._store, self._batch.name).read()
        items = recorded_items(Ledger(self._store, self._batch.name), self._logger)
        recorded = [
            RecordedImage(*known, image, pick if pick is not None and pick.is_on(image) else None)
            for known, image in _images(items)
            for pick in [picks.get(known)]
        ]
        due, odd = due_images(
            self._batch.name,
            recorded,
            self.sizes,
            self._folder,
            policies,
            self._batch.written,
            self._now,
        )
        what = "are not what their records say, and stay"
        return due, f"{counted(len(odd), 'image')} {what}: {odd[0]}" if odd else None

    def remove(self, due: Sequence[DueImage]) -> Iterator[list[RemovedImage]]:
        """Remove images; yields what has gone, some at a time."""
        smaller = self._copies.by_source()
        for start in range(0, len(due), AT_ONCE):
            lines: list[RemovedImage] = []
            for each in due[start : start + AT_ONCE]:
                try:
                    lines.append(self._prepared(each))
                except StorageError as error:
                    self.failed.append(str(error))
                    continue
                if each.policy.action == "delete" and each.policy.smaller_copies == "delete":
                    copies = smaller.pop(each.recorded.image.key, [])
                    lines += [self._line_of_copy(lines[-1], copy) for copy in copies]
            # First the lines, then the objects: nothing is gone that no line names.
            self._add(lines)
            if any(line.key not in self.sizes for line in lines):
                self._copies.write(copy for its in smaller.values() for copy in its)
            yield self._removed(lines)

    def _prepared(self, due: DueImage) -> RemovedImage:
        """The line of an image that goes; of one that is moved, its copy is there.

        Raises:
            StorageError: If it is no longer what its record says, or cannot be copied.
        """
        recorded, policy = due.recorded, due.policy
        image, line = recorded.image, self._line(recorded, policy)
        there = self._store.head(image.key)
        if there is None or there.size != image.size_bytes or self._hash(image, there) != image.sha256:
            raise StorageError(f"{image.uri}: is not what its record says")
        if policy.action == "move":
            to = self._store.key(policy.to, self._batch.name, "images", image.key.rpartition("/")[2])
            before = self._store.head(to)
            if before is None:
                self._store.marks.copy(image.key, to)
                before = self._store.head(to)
            if before is None or (before.size, before.tag) != (there.size, there.tag):
                raise StorageError(f"{image.uri}: {self._store.uri(to)} is there, and is not the same")
            line = line.model_copy(update={"moved_to": self._store.uri(to)})
        return line

    def _hash(self, image: StoredImage, there: StoredObject) -> str:
        """The hash of an image's bytes, as its object says it; else they are read."""
        if said := there.metadata.get("sha256"):
            return said
        found = sha256()
        for piece in self._store.read(image.key):
            found.update(piece)
        return found.hexdigest()

    def _removed(self, lines: Sequence[RemovedImage]) -> list[RemovedImage]:
        gone, stayed = [], []
        for line in lines:
            try:
                self._store.remove(line.key)
            except StorageError as error:
                self.failed.append(str(error))
                stayed.append(line.model_copy(update=self._stamp("found")))
            else:
                gone.append(line)
        self._add(stayed)
        return gone

    def _add(self, lines: Iterable[RemovedImage]) -> None:
        self._file.add(new := list(lines))
        for line in new:
            if line.action == "found":
                self.gone.pop(line.key, None)
            else:
                self.gone[line.key] = line

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

    def _line_of_copy(self, line: RemovedImage, copy: DerivedImage) -> RemovedImage:
        its = {"key": copy.key, "sha256": copy.sha256, "size_bytes": copy.size_bytes}
        return line.model_copy(update=its)

    def _stamp(self, action: str) -> dict[str, object]:
        return {"action": action, "at": self._now, "run": self._run, "moved_to": None}


def _images(items: Sequence[GalleryItem]) -> Iterator[tuple[ImageId, StoredImage]]:
    """The images of outcomes that are known by something."""
    for item in items:
        for known, image in zip(item.image_ids, item.outcome.images, strict=True):
            if known is not None:
                yield known, image
