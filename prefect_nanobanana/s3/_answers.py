"""Looks at each answer before boto3 does: is it a store that answers, and what are its words?"""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import urlsplit

from botocore.model import OperationModel

from prefect_nanobanana.errors import BucketNotUsable
from prefect_nanobanana.s3._errors import text

_REDIRECTS = {301, 302, 303, 307, 308}
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<!doctype html|<html|<head|<body|<script|<!--)", re.I)
_READ_BY_BOTO3 = re.compile(rb"(?:\xef\xbb\xbf)?(?:<\?xml[^>]*\?>\s*)?<Error>.*</Error>\s*\Z", re.S)
_CODE = re.compile(r"""<(?:\w+:)?Code>\s*([^<]+)|"code"\s*:\s*"([^"]+)""", re.I)
_MESSAGE = re.compile(r"""<(?:\w+:)?Message>\s*([^<]+)|"message"\s*:\s*"([^"]+)""", re.I)
_ENDPOINT = re.compile(rb"<Endpoint>([^<]{1,200})</Endpoint>")
_KNOWN_STATUS = {408, 412, 413, 429}
_MOST_PAGE_BYTES = 64 * 1024


class AnswerCheck:
    """Called by boto3 for each answer of an endpoint, before it is parsed.

    boto3 itself follows redirects that name no region until Python's stack is full, takes a page of
    another kind of server for an empty list, and leaves out what an answer that is not XML says.

    Args:
        endpoint: Its address.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = _origin(endpoint)

    def __call__(
        self,
        operation_model: OperationModel,
        response_dict: dict[str, Any],
        customized_response_dict: dict[str, Any],
        **_: Any,
    ) -> None:
        """Look at an answer.

        Raises:
            BucketNotUsable: If it is a redirect that boto3 cannot follow, or is not from a store.
        """
        status, headers, body = (response_dict[name] for name in ("status_code", "headers", "body"))
        content = body if isinstance(body, bytes) else b""
        if status in _REDIRECTS:
            self._check_redirect(status, headers, content)
        elif status < 300:
            self._check_success(operation_model.name, headers, content)
        elif status < 500 and status not in _KNOWN_STATUS and _PAGE.match(content):
            raise self._not_a_store(f"answers {status} with an HTML page", content)
        if status >= 300 and content.strip() and not _READ_BY_BOTO3.match(content):
            customized_response_dict["Error"] = _error(status, content)

    def _check_redirect(self, status: int, headers: Any, content: bytes) -> None:
        if headers.get("x-amz-bucket-region") or b"<Region>" in content:
            return  # boto3 goes there, or says so
        named = _ENDPOINT.search(content)
        endpoint = named[1].decode(errors="replace") if named else ""
        location = _origin(headers.get("location") or endpoint)
        if location and location != self._endpoint:
            raise BucketNotUsable(
                f"the endpoint {self._endpoint} redirects to {location} ({status}): set that as the "
                "endpoint URL in the credentials block, or the region, if the bucket is in another one"
            )
        raise BucketNotUsable(
            f"the endpoint {self._endpoint} answers {status}, a redirect that names no other endpoint: "
            "the bucket may be in another region: set region and endpoint URL in the credentials block"
        )

    def _check_success(self, operation: str, headers: Any, content: bytes) -> None:
        if _PAGE.match(content):
            raise self._not_a_store("answers with an HTML page", content)
        is_listing = b"ListBucketResult" in content or b"<Error>" in content
        if operation.startswith("ListObjects") and not is_listing:
            raise self._not_a_store("answers a listing with something else", content)
        is_page = "html" in str(headers.get("content-type", "")).lower()
        of_a_store = "etag" in headers or any(name.lower().startswith("x-amz-") for name in headers)
        if operation == "HeadObject" and is_page and not of_a_store:
            raise self._not_a_store("answers with an HTML page", b"")

    def _not_a_store(self, what: str, content: bytes) -> BucketNotUsable:
        said = _plain(content)
        return BucketNotUsable(
            f"the endpoint {self._endpoint} {what}, as no S3 store does: it may be a console's port, or "
            "a proxy's: check the endpoint URL in the credentials block"
            + (f" (it says: {said})" if said else "")
        )


def _origin(url: str) -> str:
    """Scheme, host and port of an address: the rest may hold a signature or a password."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    scheme = f"{parts.scheme}://" if parts.scheme else ""
    return text(f"{scheme}{parts.hostname}{port}") if parts.hostname else ""


def _plain(content: bytes) -> str:
    """What a page says: its title, or else its text."""
    page = content[:_MOST_PAGE_BYTES].decode(errors="replace")
    if title := re.search(r"<title[^>]*>(.*?)</title", page, re.I | re.S):
        return text(title[1])
    return text(re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", page, flags=re.I | re.S))


def _error(status: int, content: bytes) -> dict[str, str]:
    """An error that boto3 does not read: JSON, text, or XML that has a namespace, is wrapped or cut."""
    page = content[:_MOST_PAGE_BYTES].decode(errors="replace")
    code, message = (_first(field.search(page)) for field in (_CODE, _MESSAGE))
    plain = _plain(content)
    return {"Code": code or str(status), "Message": message or plain, "Said": plain}


def _first(found: re.Match[str] | None) -> str:
    """What was found, by whichever of two groups."""
    return unescape(found[1] or found[2]).strip() if found else ""
