"""What a store says of an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StoredObject:
    """What a store says of an object. All of it may be left out by some store.

    Attributes:
        etag: The tag that tells its versions apart, as the store writes it; empty if it says none.
        size: In bytes.
        sha256: Its checksum as S3 writes it, if the store keeps it.
        encrypted_by_kms: Whether it is encrypted with a key of its own: its tag is no MD5 then.
        metadata: User metadata, by names in lower case.
    """

    etag: str = ""
    size: int | None = None
    sha256: str = ""
    encrypted_by_kms: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> StoredObject:
        """Read boto3's answer to a put or a HEAD."""
        metadata: Mapping[str, str] = answer.get("Metadata") or {}
        return cls(
            etag=answer.get("ETag", ""),
            size=answer.get("ContentLength"),
            sha256=answer.get("ChecksumSHA256", ""),
            encrypted_by_kms="aws:kms" in str(answer.get("ServerSideEncryption")),
            metadata={name.lower(): value for name, value in metadata.items()},
        )

    @property
    def tag(self) -> str:
        """The tag without its quotes; of most stores it is the MD5."""
        return self.etag.removeprefix("W/").strip('"')
