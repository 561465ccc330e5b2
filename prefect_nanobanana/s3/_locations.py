"""Where things are: buckets by name or ARN, endpoints, and addresses for people."""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

_ARN = re.compile(
    r"arn:[^/:]+:[^/:]+:(?P<region>[^/:]*):[^/:]*:"
    r"(?:outpost[/:][^/:]+[/:])?(?:accesspoint|bucket)[/:][^/:]+"
)
"""An access point's (AWS's documentation), also of Object Lambda, or on Outposts."""
SIGNED_SECONDS = 7 * 24 * 3600
"""The longest that S3 allows (its documentation)."""
_signing = threading.local()
_AWS = re.compile(r"(?:.*\.)?amazonaws\.com(?:\.cn)?", re.I)

_WITHOUT_BUCKET = re.compile(
    r"s3[.-].+|storage\.googleapis\.com|oss-.+\.aliyuncs\.com|.+\.r2\.cloudflarestorage\.com|"
    r".+\.(?:digitaloceanspaces|linodeobjects|vultrobjects|wasabisys|backblazeb2)\.com",
    re.I,
)
"""Endpoints as their stores name them."""


def is_aws(endpoint: str) -> bool:
    """Whether an endpoint is AWS's own."""
    return bool(_AWS.fullmatch(urlsplit(endpoint).hostname or ""))


def split_uri(uri: str) -> tuple[str, str] | None:
    """Bucket and key of an `s3://` address, whose bucket may be an access point's ARN."""
    rest = uri.removeprefix("s3://")
    arn = _ARN.match(rest)
    name, _, key = (arn[0], *rest[arn.end() :].partition("/")[1:]) if arn else rest.partition("/")
    return (name, key) if name and key else None


def _not_of_links(_: logging.LogRecord) -> bool:
    return not getattr(_signing, "link", False)


# At the level DEBUG it tells signatures, and one of these opens an object for a week.
for _name in ("botocore.auth", "botocore.endpoint", "botocore.httpsession", "urllib3.connectionpool"):
    logging.getLogger(_name).addFilter(_not_of_links)


@contextmanager
def unlogged() -> Iterator[None]:
    """Have boto3 tell nothing of what this thread sends: it is, or holds, a signed address."""
    _signing.link = True
    try:
        yield
    finally:
        _signing.link = False


def presigned(client: Any, bucket: str, key: str, seconds: float = SIGNED_SECONDS) -> str:
    """A link with which whoever has it may read an object, for so many seconds."""
    return _presigned(client, "get_object", {"Bucket": bucket, "Key": key}, seconds)


def presigned_put(client: Any, request: dict[str, str], seconds: float) -> str:
    """An address with which whoever has it may write one object, for so many seconds."""
    return _presigned(client, "put_object", request, seconds)


def _presigned(client: Any, operation: str, request: dict[str, str], seconds: float) -> str:
    with unlogged():
        valid = min(SIGNED_SECONDS, max(1, math.ceil(seconds)))
        link: str = client.generate_presigned_url(operation, request, ExpiresIn=valid)
        return link


def object_url(client: Any, bucket: str, key: str) -> str:
    """Where people who may read a bucket can open an object: AWS's console, or its address elsewhere."""
    endpoint, region = client.meta.endpoint_url, client.meta.region_name
    if not is_aws(endpoint):
        return f"{endpoint.rstrip('/')}/{quote(bucket, safe='')}/{quote(key)}"
    arn = _ARN.fullmatch(bucket)
    query = urlencode({"region": (arn and arn["region"]) or region, "prefix": key})
    return f"https://console.aws.amazon.com/s3/object/{quote(bucket, safe='')}?{query}"


def endpoint_problem(endpoint: str, bucket: str) -> str | None:
    """What is wrong with an endpoint that already holds the bucket, which boto3 adds once more."""
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    path = parts.path.rstrip("/")
    if path.endswith(f"/{bucket}"):
        rest = path.removesuffix(f"/{bucket}")
        return (
            "the endpoint URL has the bucket in its path: write "
            f"{parts.scheme}://{host}{port}{rest} in the credentials block"
        )
    rest = host.removeprefix(f"{bucket}.")
    if rest != host and _WITHOUT_BUCKET.fullmatch(rest):
        return (
            f"the endpoint URL has the bucket in its host: write {parts.scheme}://{rest}{port} in the "
            "credentials block"
        )
    return None
