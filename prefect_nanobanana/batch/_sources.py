"""Where lists of prompts come from: a file, an S3 object, a web address; bounded, and no way in.

Who fills in a form in a browser has no shell on the worker: a run that a worker starts reads files below
the folders that its environment names, and no others. Web addresses are checked as images' are.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prefect_nanobanana._common.adjustable import Adjustable
from prefect_nanobanana._common.local_files import LocalFiles
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.images import Fetcher

MAX_LIST_BYTES = Adjustable(64 * 1024 * 1024)
"""Of a list, as it comes and unpacked."""
WEB_SECONDS = Adjustable(60.0)
"""For a whole list, redirects included."""
_GZIP = b"\x1f\x8b"
_GZIP_LAYERS = 2
_NAME_CHARACTERS = 120
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_PATHS = LocalFiles("prompts_from", "lists")

ReadS3 = Callable[[str, int], bytes]
"""Reads an `s3://` address, at most so many bytes of it."""


def read_list(source: str, read_s3: ReadS3, fetcher: Fetcher) -> tuple[str, bytes]:
    """Read a list of prompts.

    Args:
        source: A local path, an `s3://` address, or an http(s) URL.
        read_s3: Reads an `s3://` address.
        fetcher: Reads a URL.

    Returns:
        The list's file name, for its kind and for messages; and its content, unpacked.

    Raises:
        InvalidInput: If it cannot be read, may not be read, or is too large.
        StorageError: If the bucket block cannot be used.
    """
    source = source.strip()
    scheme = _SCHEME.match(source)
    kind = scheme[1].lower() if scheme else ""
    if kind == "s3":
        name = source.rpartition("/")[2]
        content = read_s3(f"s3://{source[len('s3://') :]}", MAX_LIST_BYTES.get() + 1)
    elif kind in ("http", "https"):
        name, content = _web_name(source), _read_web(source, fetcher)
    elif kind:
        raise InvalidInput(
            f"prompts_from: {kind}:// cannot be read: give a path, an s3:// address or a web address"
        )
    else:
        name, content = Path(source).name, _PATHS.read(source, MAX_LIST_BYTES.get() + 1)
    name = _short(name)
    if len(content) > MAX_LIST_BYTES.get():
        raise _too_large(name)
    return re.sub(r"\.gz$", "", name, flags=re.IGNORECASE), _unpacked(name, content)


def _short(name: str) -> str:
    """A name for messages, in one line; its end says what kind of list it is."""
    name = " ".join(name.split())
    return name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS // 2]}...{name[-40:]}"


def _too_large(name: str) -> InvalidInput:
    return InvalidInput(f"{name}: is larger than {MAX_LIST_BYTES.get()} bytes: split it")


def _web_name(url: str) -> str:
    try:
        path = urlsplit(url).path
    except ValueError:
        raise InvalidInput("prompts_from: is not a URL: copy it from a browser's address bar") from None
    return unquote(path).rstrip("/").rpartition("/")[2]


def _read_web(url: str, fetcher: Fetcher) -> bytes:
    try:
        return fetcher.read(url, max_bytes=MAX_LIST_BYTES.get(), within_seconds=WEB_SECONDS.get())
    except InvalidInput as error:
        raise InvalidInput(f"prompts_from: the list cannot be read: {error}") from None


def _unpacked(name: str, content: bytes) -> bytes:
    """The list itself: stores and hosts hand out what was packed as it is, whatever its name says."""
    for _ in range(_GZIP_LAYERS):
        if not content.startswith(_GZIP):
            break
        unpack = zlib.decompressobj(wbits=31)
        try:
            content = unpack.decompress(content, MAX_LIST_BYTES.get() + 1)
        except zlib.error:
            raise InvalidInput(f"{name}: is damaged: pack it anew, or give it unpacked") from None
        if len(content) > MAX_LIST_BYTES.get():
            raise _too_large(name)
        if not unpack.eof or unpack.unused_data.strip(b"\0"):
            raise InvalidInput(
                f"{name}: is cut short, or more than one: pack it anew, or give it unpacked"
            )
    return content
