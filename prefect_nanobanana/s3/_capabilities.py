"""What is known of a store: which headers it takes, and which conditions it honours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from botocore.exceptions import ClientError

from prefect_nanobanana.s3._errors import CONFLICTS, DAMAGED, code_of, option_named, said_by, status_of

_CONDITIONS = frozenset({"IfNoneMatch", "IfMatch"})
_CHECKSUMS = frozenset({"ChecksumSHA256", "ChecksumMode"})
_CHECKSUM_HEADERS = ("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer")
_CONDITION_HEADERS = ("if-none-match", "if-match")
_NOT_IMPLEMENTED = 501


@dataclass(frozen=True)
class Capabilities:
    """What is known of a store. Only `ObjectStore` makes new ones, from the store's answers.

    Attributes:
        conditional_writes: Whether it honours `If-None-Match` on a put; None until that is known.
        accepts_conditions: Whether a put may carry `If-None-Match` and `If-Match`; some stores answer
            400 or 501.
        accepts_checksums: Whether a request may carry `x-amz-checksum-*`; some stores answer 400.
        bare_etags: Whether `If-Match` must name a tag without its quotes, as Ceph's radosgw 16 wants it.
    """

    conditional_writes: bool | None = None
    accepts_conditions: bool = True
    accepts_checksums: bool = True
    bare_etags: bool = False

    def fit(self, request: dict[str, Any]) -> dict[str, Any]:
        """A request's parameters without those that the store refuses."""
        unfit: frozenset[str] = frozenset()
        if not self.accepts_conditions:
            unfit |= _CONDITIONS
        if not self.accepts_checksums:
            unfit |= _CHECKSUMS
        return {name: value for name, value in request.items() if name not in unfit}

    def if_match(self, etag: str) -> str | None:
        """A tag as `If-Match` takes it, which compares strongly; nothing of an empty one."""
        strong = etag.removeprefix("W/")
        return (strong.strip('"') if self.bare_etags else strong) or None

    def after(self, error: ClientError, request: dict[str, Any]) -> Capabilities:
        """What a refusal adds: that a header which its answer names is not known to the store.

        Args:
            error: The refusal.
            request: The parameters that were sent.

        Returns:
            The same if it adds nothing.
        """
        status, code = status_of(error), code_of(error)
        if status not in (400, _NOT_IMPLEMENTED) or code in DAMAGED:
            return self
        said = said_by(error).lower()
        unnamed = status == _NOT_IMPLEMENTED or code == "NotImplemented"
        unnamed = unnamed and option_named(error) is None
        conditions, checksums = _CONDITIONS & request.keys(), _CHECKSUMS & request.keys()
        if any(name in said for name in _CHECKSUM_HEADERS):
            return replace(self, accepts_checksums=False)
        if conditions and (unnamed or any(name in said for name in _CONDITION_HEADERS)):
            return replace(self, accepts_conditions=False, conditional_writes=False)
        # The answer to a HEAD has no body that could name a header.
        if checksums and (unnamed or error.operation_name == "HeadObject"):
            return replace(self, accepts_checksums=False)
        return self


def condition_failed(error: ClientError, request: dict[str, Any]) -> bool:
    """Whether a refusal says that an object is there already, or has changed, or is gone.

    Args:
        error: The refusal of a put.
        request: The parameters that were sent.
    """
    status, code = status_of(error), code_of(error)
    if status == 404 and code == "NoSuchKey":  # AWS, of `If-Match` where nothing is
        return "IfMatch" in request
    # A gateway was seen to say 304, as of a GET. A conflict means that nothing is decided yet.
    failed = status in (304, 412) or (status == 409 and code not in CONFLICTS)
    return failed and bool(_CONDITIONS & request.keys())
