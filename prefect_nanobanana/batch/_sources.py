"""Where lists of prompts come from: a file, an S3 object, a web address; bounded, and no way in.

Who fills in a form in a browser has no shell on the worker: a run that a worker starts reads files below
the folders that its environment names, and no others. Web addresses are checked as images' are.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prefect.context import FlowRunContext

from prefect_nanobanana._common.addresses import LONGEST_SHOWN, without_signature, without_userinfo
from prefect_nanobanana._common.adjustable import Adjustable
from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.images import Fetcher

FOLDERS_VARIABLE = "PREFECT_NANOBANANA_PROMPTS_FOLDERS"
"""Names the folders, separated as in PATH, that lists may be read from in runs that a worker starts."""
MAX_LIST_BYTES = Adjustable(64 * 1024 * 1024)
"""Of a list, as it comes and unpacked."""
WEB_SECONDS = Adjustable(60.0)
"""For a whole list, redirects included."""
_GZIP = b"\x1f\x8b"
_GZIP_LAYERS = 2
_NAME_CHARACTERS = 120
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


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
        name, content = Path(source).name, _read_path(source)
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


def _read_path(source: str) -> bytes:
    try:
        path = Path(source).expanduser().resolve()
    except RuntimeError:  # of expanduser, and of links in a circle
        raise _unreadable(source, "there is no such user or file") from None
    except (OSError, ValueError) as error:
        raise _unreadable(source, getattr(error, "strerror", None) or "is not a path") from None
    if started_by_worker():
        _check_folder(source, path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                return file.read(MAX_LIST_BYTES.get() + 1)
    except OSError as error:
        raise _unreadable(source, error.strerror or type(error).__name__) from None
    # A FIFO would be waited for, and a device may never end.
    raise _unreadable(source, "Is a directory" if stat.S_ISDIR(mode) else "it is not a regular file")


def _unreadable(source: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"prompts_from: {_shown(source)} cannot be read ({why}): give a path that "
        "exists on the machine that runs the flow, an s3:// address or a web address"
    )


def _shown(source: str) -> str:
    """A path as an error may say it; it may be a signed address that was mistyped."""
    return quoted(without_signature(without_userinfo(source)), LONGEST_SHOWN)[1:-1]


def started_by_worker() -> bool:
    """Whether this run, or a run above it, was started for a deployment and not by a script.

    Workers and `serve` start the process of a run with this variable, as does everything else in Prefect
    that takes runs from its server (Prefect 3.9, `runner/_starter_engine.py`).
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return "PREFECT__FLOW_RUN_ID" in os.environ or (run is not None and run.deployment_id is not None)


def _check_folder(source: str, path: Path) -> None:
    """Refuse what is not below an allowed folder, in the same words whether it is there or not."""
    named = filter(str.strip, os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep))
    folders = []
    for name in named:
        with suppress(RuntimeError, OSError):  # of nobody's home, and of links in a circle
            folders.append(Path(name.strip()).expanduser().resolve())
    if not any(path.is_relative_to(folder) for folder in folders):
        raise InvalidInput(
            f"prompts_from: {_shown(source)} is not below a folder that lists may "
            "be read from: give an s3:// address or a web address, or name its folder in the worker's "
            f"environment variable {FOLDERS_VARIABLE}"
        )


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
