"""Which keys of a bucket are free, known without asking for each."""

from __future__ import annotations

import threading
import time

from prefect_nanobanana.s3 import ObjectStore

LISTED_SECONDS = 60.0
"""So long after a folder was listed, a key that was not in it counts as free."""


class Listing:
    """Which keys are free, for stores that are not known to refuse to write over an object.

    To ask for each key takes as long as half a copy. Whoever else writes between asking and writing is
    written over in either case; here that is a minute at most, and a moment when that has passed.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._taken: set[str] = set()
        self._folders: dict[str, tuple[float, set[str] | None]] = {}

    def take(self, key: str) -> bool:
        """Take a key.

        Args:
            key: Which.

        Returns:
            Whether it was free a moment ago, and nobody here took it since; if that is not known, it is
            not.
        """
        folder = key[: key.rfind("/") + 1]
        with self._lock:
            taken = key in self._taken
            self._taken.add(key)
            if taken:
                return False
            if folder not in self._folders:
                self._folders[folder] = time.monotonic() + LISTED_SECONDS, self._store.few(folder)
            until, keys = self._folders[folder]
            return keys is not None and key not in keys and time.monotonic() < until
