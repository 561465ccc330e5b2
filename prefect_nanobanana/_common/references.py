"""Addresses of reference images: those that the API fetches itself, and those that it is offered."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from prefect_nanobanana._common.addresses import without_signature
from prefect_nanobanana._common.characters import control_problem, invisible_problem, quoted
from prefect_nanobanana._common.public import Address, is_public

FOLDER = "references"
"""Of a batch: its own copies of private references."""
_SHOWN = 120
_PATH = re.compile(r"file:///|[/~]|\.{1,2}[/\\]|[a-z]:[/\\]", re.IGNORECASE)
_HASH_MARK = "#sha256="
_TWO = re.compile(r"[\s,;|]+https?://", re.IGNORECASE)
_NUMBERS = re.compile(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*", re.IGNORECASE)
"""What some clients take for an IPv4 address, though only four decimal numbers are one."""
_NOT_IN_HOSTS = re.compile(r"[\x00-\x20\"<>\\^`{|}%;()!$&'*+=~]|\.\.")
_PRIVATE = re.compile(r"(.*\.)?(localhost|local|internal|intranet|lan|home|corp|private|home\.arpa)")
"""Names that nobody outside a network can resolve (RFC 6761, 6762, 8375; reserved by ICANN)."""


def is_private(url: str) -> bool:
    """Whether a reference is an object in S3 or a local file, which the API must be given a way to."""
    return url.startswith("s3://") or is_path(url)


def is_path(url: str) -> bool:
    """Whether a reference is a local file: a path with its folder, as `./cat.png`, or `file:///`."""
    return bool(_PATH.match(url))


def local_path(url: str) -> str:
    """The path of a local file."""
    return unquote(url[len("file://") :]) if url.lower().startswith("file:///") else url


def absolute_path(url: str) -> str:
    """The same from the root, as far as it can be said: of nobody's home it cannot."""
    with suppress(RuntimeError, OSError, ValueError):
        return str(Path(local_path(url)).expanduser().absolute())
    return url


def with_hash(uri: str, sha256: str) -> str:
    """A private reference and what it holds: what prompts are known by, and records keep."""
    return f"{uri}{_HASH_MARK}{sha256}"


def split_hash(url: str) -> tuple[str, str]:
    """An address, and the hash of what it holds; empty if that is not in it."""
    uri, mark, sha256 = url.rpartition(_HASH_MARK)
    return (uri, sha256) if mark and is_private(uri) else (url, "")


def bare_reference(url: str) -> str:
    """A reference as records keep it: a web address without what is secret in it."""
    return url if is_private(url) else without_signature(url)


def reference_problem(url: str) -> str | None:
    """Say why the API cannot fetch a reference image from an address, if that can be seen of it.

    Args:
        url: The address, or where a private reference is.

    Returns:
        What is wrong and the cure, without what is secret in the address; None if nothing is.
    """
    problem = _problem(url)
    return f"{quoted(without_signature(url, _SHOWN), _SHOWN)} {problem}" if problem else None


def _problem(url: str) -> str | None:
    if url.startswith("s3://"):
        bucket, _, key = url.removeprefix("s3://").partition("/")
        if "@" in bucket:
            return (
                "has a user name in it: the bucket block's credentials are used: write s3://bucket/key"
            )
        return None if bucket and key else "names no object: write s3://bucket/key"
    if is_path(url):
        return None
    if not url.lower().startswith(("http://", "https://")):
        return (
            "is not a web address: write an http:// or https:// URL that the API can reach, an s3:// "
            "address, or a path as ./cat.png"
        )
    if _TWO.search(url) or url.endswith((",", ";", "|")):
        return "is more than one address: separate them with blanks, or give each a text of its own"
    if control_problem(url) or re.search(r"\s", url):
        return "holds a blank: write %20 for one that belongs to the address"
    if "," in url:
        return (
            "holds a comma: write %2C for one that belongs to the address, and separate addresses with "
            "blanks"
        )
    if unseen := invisible_problem(url):
        return unseen
    try:
        parts = urlsplit(url)
        port = parts.port
        # As IDNA has it: full-width digits and dots are digits and dots.
        host = unicodedata.normalize("NFKC", parts.hostname or "").replace("\u3002", ".").rstrip(".")
    except ValueError:
        return "is not a URL: copy it from a browser's address bar"
    address = _address(host)
    if not host or port == 0 or _NOT_IN_HOSTS.search(host) or (not address and _NUMBERS.fullmatch(host)):
        return "names no host that can be asked: write https://host/path"
    if _PRIVATE.fullmatch(host) or (address and not is_public(address)) or _is_container(parts, host):
        return "is a private address, which the API cannot reach: put the image where the internet can"
    return None


def _is_container(parts: SplitResult, host: str) -> bool:
    """Whether it is a name inside a network, as containers have: `http://minio:9000`."""
    return "." not in host and ":" not in host and (parts.scheme == "http" or parts.port is not None)


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
