"""Addresses of reference images, which the API fetches itself."""

from __future__ import annotations

import re
import unicodedata
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from prefect_nanobanana._common.addresses import without_signature
from prefect_nanobanana._common.characters import control_problem, invisible_problem, quoted
from prefect_nanobanana._common.public import Address, is_public

_SHOWN = 120
_TWO = re.compile(r"[\s,;|]+https?://", re.IGNORECASE)
_NUMBERS = re.compile(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*", re.IGNORECASE)
"""What some clients take for an IPv4 address, though only four decimal numbers are one."""
_NOT_IN_HOSTS = re.compile(r"[\x00-\x20\"<>\\^`{|}%;()!$&'*+=~]|\.\.")
_PRIVATE = re.compile(r"(.*\.)?(localhost|local|internal|intranet|lan|home|corp|private|home\.arpa)")
"""Names that nobody outside a network can resolve (RFC 6761, 6762, 8375; reserved by ICANN)."""


def reference_problem(url: str) -> str | None:
    """Say why the API cannot fetch a reference image from an address, if that can be seen of it.

    Args:
        url: The address.

    Returns:
        What is wrong and the cure, without what is secret in the address; None if nothing is.
    """
    problem = _problem(url)
    return f"{quoted(without_signature(url, _SHOWN), _SHOWN)} {problem}" if problem else None


def _problem(url: str) -> str | None:
    if not url.lower().startswith(("http://", "https://")):
        return (
            "is not a web address: the API fetches references itself, so each must be an http:// or "
            "https:// URL that it can reach"
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
