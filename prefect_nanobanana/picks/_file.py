"""The decisions on a batch's images in S3: `picks.jsonl`, a line per image that is decided on."""

from __future__ import annotations

from collections.abc import Iterable

from prefect_nanobanana.picks._pick import ImageId, Pick
from prefect_nanobanana.s3 import LineFile, ObjectStore

PICKS = "picks.jsonl"


class Picks:
    """Reads and writes the decisions on one batch.

    Args:
        store: Where the batch lies.
        batch: Its name.
    """

    def __init__(self, store: ObjectStore, batch: str) -> None:
        key, cure = store.key(batch, PICKS), "correct it, or remove the line"
        self._file = LineFile(store, key, Pick, cure)

    @property
    def uri(self) -> str:
        """Where they are."""
        return self._file.uri

    def read(self) -> dict[ImageId, Pick]:
        """Read them.

        Returns:
            The last decision on each image that there is one on.

        Raises:
            InvalidInput: If the file cannot be read; names the line.
            StorageError: If the store cannot be used.
        """
        return _by_image(self._file.read())

    def add(self, picks: Iterable[Pick]) -> dict[ImageId, Pick]:
        """Add decisions; a new one on an image takes the place of the one before.

        Two reviews at once do not lose each other's, where the store honours conditional writes.

        Returns:
            All decisions, with these.

        Raises:
            InvalidInput: If what is there cannot be read.
            StorageError: If they cannot be written.
        """
        new = _by_image(picks)
        return _by_image(self._file.update(lambda known: (_by_image(known) | new).values()))


def _by_image(picks: Iterable[Pick]) -> dict[ImageId, Pick]:
    return {pick.image: pick for pick in picks}
