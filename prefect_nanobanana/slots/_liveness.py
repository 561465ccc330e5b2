"""Proof that a process of this machine is dead, by a lock that its operating system has let go of."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_host() -> str:
    """Names this machine, and which of its starts this is.

    A lock says nothing to other machines, even where they see the same file.
    """
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        boot = ""
    return f"{platform.node()}/{boot}"


class LivenessLock:
    """A locked file; the lock lasts as long as this process does.

    Args:
        folder: Where such files are.
        name: What tells this one apart.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = _path(folder, name)
        self._file: IO[str] | None = None
        if sys.platform == "win32":
            return  # there, the dead are known by their silence alone
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # A disk that is read-only, or knows no locks: then this one is known by its silence, too.
            self.end()

    def end(self, told: bool = True) -> None:
        """Unlock the file and remove it.

        Args:
            told: Whether others know already. If not, the file stays, as that of one that died.
        """
        if self._file is not None:
            if told:
                self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


def is_dead(folder: Path, name: str) -> bool:
    """Whether the process with this life sign is dead for certain.

    Args:
        folder: Where the files are.
        name: What the process called its own.

    Returns:
        False if it lives, or if nothing can be told from here.
    """
    path = _path(folder, name)
    if sys.platform == "win32" or os.sep in name:
        return False
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_lock(folder: Path, name: str) -> None:
    """Remove the file of a dead process, once everybody can know that it is dead."""
    with suppress(OSError):
        _path(folder, name).unlink()


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.lock"
