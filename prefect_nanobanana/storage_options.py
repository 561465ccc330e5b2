"""How objects are to be stored, beyond what the bucket does by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from unicodedata import normalize
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prefect_nanobanana._common.characters import is_word_character

Kind = Literal["image", "page", "record"]
"""What an object is: an image, the gallery page, or a record or manifest."""

Links = Literal["plain", "signed", "none"]
"""How Prefect's UI links to a full image: `plain`, to AWS's console, where people log in, or to the
image's address at another store; `signed`, by an address that opens for whoever has it, for seven days
at most, and holds the access key's id (and a session token, if there is one); or not at all."""
Verify = Literal["auto", "store", "compare"]
"""How it is known that the store holds what it was sent: it is known to refuse what does not fit its
checksum (`store`), or what it says of an object is compared (`compare`); `auto` trusts AWS alone, which
checks (its documentation)."""
CACHE_CONTROL = "public, max-age=31536000, immutable"
"""An image's key never holds another image."""
MAX_TAGS = 10
"""Per object (S3's documentation)."""


class StorageOptions(BaseModel):
    """What S3 is asked to do with the objects of a batch. All of it may be left empty.

    Attributes:
        storage_class: For images. Records and pages are small and often read, and stay in the bucket's.
        encryption: Server-side encryption of everything, where the bucket does not encrypt by itself.
        kms_key_id: The key for `aws:kms`.
        acl: A canned ACL. Those that let the public read concern images and the gallery page alone.
        tags: Names and values, for everything.
        cache_control: What browsers and CDNs are told about images.
        prompts: Whether images' metadata say what was asked for: `auto` does, unless everybody may read
            them.
        links: Where the gallery in Prefect's UI leads: see `Links`.
        verify: How it is known that the store holds what it was sent: see `Verify`.
        retry_for_seconds: How long a copy that fails for a reason that may pass is tried again, in
            seconds.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # Prefect's form shows this, else all of the docstring.
        json_schema_extra={"description": "All of it may be left as it is."},
    )

    storage_class: str | None = Field(
        default=None,
        title="Storage class",
        pattern=r"^[A-Z0-9_-]+$",
        description="Of the images, as STANDARD_IA or INTELLIGENT_TIERING. From GLACIER and "
        "DEEP_ARCHIVE they must be restored before anybody can look at them.",
    )
    encryption: Literal["AES256", "aws:kms"] | None = Field(
        default=None,
        title="Encryption",
        description="By the store. Most buckets encrypt by themselves.",
    )
    kms_key_id: str | None = Field(
        default=None, title="KMS key", description="Id, alias or ARN of the key for aws:kms."
    )
    acl: str | None = Field(
        default=None,
        title="ACL",
        pattern=r"^[a-z-]+$",
        description="As bucket-owner-full-control. With public-read, images and gallery can be read by "
        "everybody; records and manifest, which say what was paid, cannot.",
    )
    tags: dict[str, str] = Field(default={}, title="Tags", description="Of all objects, at most ten.")
    cache_control: str = Field(
        default=CACHE_CONTROL,
        title="Cache-Control of images",
        pattern=r"^[ -~]*$",
        description="What browsers and CDNs are told.",
    )
    prompts: Literal["auto", "always", "never"] = Field(
        default="auto",
        title="Prompts in images' metadata",
        description="auto: unless everybody may read the images. What they cost is never in the "
        "metadata of public ones.",
    )
    links: Links = Field(
        default="plain",
        title="Links to full images",
        description="In Prefect's UI. plain: for people who may read the bucket. signed: for everybody "
        "who sees them, for seven days at most; they hold the access key's id. none: no links.",
    )
    verify: Verify = Field(
        default="auto",
        title="Check of what is stored",
        description="store: the store refuses what does not fit its checksum. compare: what it says of "
        "each image is compared, or the image is read back. auto: AWS is trusted, others are compared.",
    )
    retry_for_seconds: float = Field(
        default=60.0,
        ge=0,
        title="Patience with hosts and store",
        description="For how many seconds a copy that fails for a reason that may pass is tried again.",
    )

    @field_validator("tags")
    @classmethod
    def _tags_are_few(cls, value: dict[str, str]) -> dict[str, str]:
        # Macs write é in another way than all others.
        value = {normalize("NFC", name): normalize("NFC", text) for name, text in value.items()}
        if len(value) > MAX_TAGS:
            raise ValueError(f"S3 takes at most {MAX_TAGS} tags, and here are {len(value)}")
        for name, text in value.items():
            if not 1 <= len(name) <= 128 or len(text) > 256:
                raise ValueError(
                    f"the tag {name[:40]!r} is empty or too long: S3 takes names of 1 to 128 "
                    "characters and values of up to 256"
                )
            if not all(is_word_character(c) or c in " +-=._:/@" for c in name + text):
                raise ValueError(
                    f"the tag {name!r} holds characters that S3 does not take: use letters, digits, "
                    "spaces and + - = . _ : / @"
                )
        return value

    @model_validator(mode="after")
    def _key_has_its_use(self) -> StorageOptions:
        if self.kms_key_id and self.encryption != "aws:kms":
            raise ValueError("kms_key_id: it is for aws:kms only: set encryption to aws:kms")
        return self

    @property
    def is_public(self) -> bool:
        """Whether everybody, or everybody with an account, may read the images, by their ACL."""
        return str(self.acl).startswith("public") or self.acl == "authenticated-read"

    def shown(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """What an image's metadata may say, of what is known.

        Args:
            metadata: All of it, with `credits` and `prompt`.
        """
        public = self.is_public
        hidden = {"credits"} if public else set[str]()
        if self.prompts == "never" or (self.prompts == "auto" and public):
            hidden.add("prompt")
        return {name: text for name, text in metadata.items() if name not in hidden}

    def for_put(self, kind: Kind) -> dict[str, Any]:
        """What `put_object` is given for an object."""
        options = {
            "ServerSideEncryption": self.encryption,
            "SSEKMSKeyId": self.kms_key_id,
            "ACL": self.acl if kind != "record" or not self.is_public else None,
            "Tagging": urlencode(self.tags, quote_via=quote),  # Ceph takes no + for a space
        }
        if kind == "image":
            options |= {"StorageClass": self.storage_class, "CacheControl": self.cache_control}
        return {name: value for name, value in options.items() if value}
