"""A small S3 server in memory whose every answer a test can change: stores as people have them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from servers import Reply, Scripted, Seen, s3_error

KEPT = ("content-type", "x-amz-checksum-sha256")
LISTING = '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>'
ITEM = "<Contents><Key>{}</Key><LastModified>2026-11-25T00:00:00Z</LastModified></Contents>"


class MemoryS3(Scripted):
    """Keeps objects, honours conditional writes, and checks nothing. Use it as a context manager."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.refuse: Callable[[Seen], Reply | None] = lambda _: None
        """What to answer before anything is done."""
        self.change: Callable[[Seen, Reply], Any] = lambda *_: None
        """Changes an answer before it is sent."""
        super().__init__(self._answer)

    def asked(self, method: str) -> list[Seen]:
        """The requests with a method."""
        return [seen for seen in self.seen if seen.method == method]

    def _answer(self, seen: Seen) -> Reply:
        reply = self.refuse(seen) or self._act(seen)
        self.change(seen, reply)
        return reply

    def _act(self, seen: Seen) -> Reply:
        parts = urlsplit(seen.path)
        key, query = unquote(parts.path.lstrip("/").partition("/")[2]), parse_qs(parts.query)
        if "list-type" in query:
            prefix = query.get("prefix", [""])[0]
            keys = sorted(key for key in self.objects if key.startswith(prefix))
            items = "".join(map(ITEM.format, keys))
            return Reply(LISTING.format(items).encode(), 200, {"Content-Type": "application/xml"})
        found = self.objects.get(key)
        if seen.method == "PUT":
            return self._put(key, seen, found[1] if found else None)
        if found is None:
            return s3_error(404, "NoSuchKey")
        return Reply(found[0], 200, dict(found[1]))

    def _put(self, key: str, seen: Seen, there: dict[str, str] | None) -> Reply:
        match = seen.headers.get("if-match")
        if (there and "if-none-match" in seen.headers) or (match and (there or {}).get("ETag") != match):
            return s3_error(412, "PreconditionFailed")
        headers = {k: v for k, v in seen.headers.items() if k in KEPT or k.startswith("x-amz-meta-")}
        headers["ETag"] = f'"{hashlib.md5(seen.body).hexdigest()}"'
        self.objects[key] = seen.body, headers
        return Reply(b"", 200, {"ETag": headers["ETag"]})
