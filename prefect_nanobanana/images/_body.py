"""What a host sends, on its way into S3: hashed, in memory if it is small, else on disk."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import os
import tempfile
import threading
from typing import IO

from prefect_nanobanana._common.adjustable import Adjustable

IN_MEMORY_BYTES = 2 * 1024 * 1024
"""Larger bodies go to disk, so that many copies at once do not fill the memory."""
_PIECE_BYTES = 1024 * 1024
"""Written and hashed at once: many threads that take turns for less lose time over it."""
PATIENCE_SECONDS = Adjustable(5.0)
"""A large body waits no longer for others: their hosts may be slow."""
_large = threading.BoundedSemaphore(4 * (os.cpu_count() or 1))
"""Large bodies keep cores and memory busy; with more of them at once, each takes longer than that."""


class Body:
    """Write to it, then finish it; close it when it is not needed any more.

    Attributes:
        file: All of it, once it is finished.
        whole: The same as bytes, if it is small.
        size: Its length, in bytes.
        md5_at_host: The MD5 that its host says it has, in hexadecimal, if it says one.
        length_told: Whether its host said where it ends, and kept to that.
    """

    def __init__(self) -> None:
        self.file: IO[bytes] = io.BytesIO()
        self.whole: bytes | None = None
        self.size = 0
        self.md5_at_host: str | None = None
        self.length_told = False
        self._sha256 = hashlib.sha256()
        self._chunks: list[bytes] = []
        self._waiting = 0
        self._on_disk = self._counted = False

    @property
    def sha256(self) -> bytes:
        """Its SHA-256."""
        return self._sha256.digest()

    @functools.cached_property
    def md5(self) -> str:
        """Its MD5 in hexadecimal, which is what most stores make an object's ETag of.

        It takes longer than all else that is done with an image, so it is worked out when it is needed.
        """
        md5 = hashlib.md5(self.whole or b"", usedforsecurity=False)
        if self.whole is None:
            self.file.seek(0)
            while piece := self.file.read(_PIECE_BYTES):
                md5.update(piece)
        return md5.hexdigest()

    @property
    def checksum(self) -> str:
        """Its SHA-256 as S3 writes it."""
        return base64.b64encode(self.sha256).decode()

    def expect(self, size: int, *, length_told: bool = False, md5_at_host: str | None = None) -> None:
        """Say how long it will be, in bytes: a large one goes to disk from its start.

        Args:
            size: In bytes; 0 if it is not known.
            length_told: Whether its host says where it ends, so that less would be an error.
            md5_at_host: The MD5 that its host says it has, in hexadecimal.

        Raises:
            OSError: If there is no room.
        """
        self.length_told, self.md5_at_host = length_told, md5_at_host
        if size > IN_MEMORY_BYTES and not self._on_disk:
            self._go_to_disk()

    def write(self, chunk: bytes) -> None:
        """Add to it.

        Raises:
            OSError: If there is no room.
        """
        self.size += len(chunk)
        self._chunks.append(chunk)
        self._waiting += len(chunk)
        if self._waiting > (_PIECE_BYTES if self._on_disk else IN_MEMORY_BYTES):
            if not self._on_disk:
                self._go_to_disk()
            self.file.write(self._take())

    def finish(self) -> None:
        """Say that this was all.

        Raises:
            OSError: If there is no room.
        """
        rest = self._take()
        if self._on_disk:
            self.file.write(rest)
            self.file.seek(0)
        else:
            # A file over bytes shares them until it is written to.
            self.whole, self.file = rest, io.BytesIO(rest)

    def close(self) -> None:
        """Remove it."""
        try:
            self.file.close()
        finally:
            if self._counted:
                self._counted = False
                _large.release()

    def _go_to_disk(self) -> None:
        self._counted = _large.acquire(timeout=PATIENCE_SECONDS.get())
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (`close` ends it)
        self._on_disk = True

    def _take(self) -> bytes:
        piece = b"".join(self._chunks)
        self._chunks, self._waiting = [], 0
        self._sha256.update(piece)
        return piece
