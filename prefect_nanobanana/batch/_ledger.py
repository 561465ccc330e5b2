"""What was asked, paid and stored: one record per prompt of a batch, in S3 beside the images.

A record is written before the request that may be charged leaves, and after every step that
follows, so that whatever dies when, the next run of the batch knows what was paid:

    planned      never asked: ask
    asked        a request left, no answer was recorded: maybe paid, never asked again
    submitted    the API has begun it and named it: ask for its end, which costs nothing
    not_charged  asked, and the API said that it charged nothing: ask
    generated    paid, images wait at their URLs: copy them
    stored       paid, all images are in S3: nothing to do
    warning      paid, refused by the safety check: nothing to do
    failed       paid, no image: nothing to do, unless the API said that it cost nothing
    unknown      asked, no usable answer came: maybe paid, never asked again
    lost         paid, but its images were gone before they were copied: nothing to do

A record that cannot be read is never taken for one that is not there: the run stops.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_nanobanana.errors import (
    BucketNotUsable,
    LedgerError,
    NanoBananaError,
    StorageError,
)
from prefect_nanobanana.models import Credits, Generation, ImagePrompt, ImageRequest, StoredImage
from prefect_nanobanana.s3 import POOL_CONNECTIONS, ObjectStore, PreconditionFailed

State = Literal[
    "planned",
    "asked",
    "submitted",
    "not_charged",
    "generated",
    "stored",
    "warning",
    "failed",
    "unknown",
    "lost",
]
CLAIM_SECONDS = 0.2
"""How long after a claim it is looked at again, on stores without conditional writes."""
_CLAIMED = "another run of this batch is asking for it at this moment: run the batch again later"


class Record(BaseModel):
    """What is known of one prompt of a batch.

    Attributes:
        version: Of this format.
        key: The prompt's key.
        prompt: As it was given.
        request: What the API was, or will be, asked.
        position: Its place in the list that named it last, from 1; plays no part in the key.
        state: How far it got.
        asked_at: When the last request left.
        asked_by: The flow run that sent it.
        attempt: Tells that request from all others.
        generation: What the API answered.
        generation_id: The id by which its end can be asked for, once an answer named it.
        credits_used: What it cost; an estimate where `generation.credits_used` is None.
        credits_before: What earlier requests for the same cost, before it was asked again on request.
        offset: How many images those earlier requests yielded; places are counted on from there.
        images: What is in S3, by place: that of its URL in the generation, from 1, plus the offset.
        thumbnails: Small pictures as `data:` URLs, by the same places.
        message: Why, for everything that is not well.
        updated_at: When this was written.
    """

    model_config = ConfigDict(extra="ignore")

    version: int = 1
    key: str
    prompt: ImagePrompt
    request: ImageRequest
    position: int | None = None
    state: State = "planned"
    asked_at: datetime | None = None
    asked_by: str | None = None
    attempt: str | None = None
    generation: Generation | None = None
    generation_id: str | None = None
    credits_used: Credits = 0
    credits_before: Credits = 0
    offset: int = 0
    images: dict[int, StoredImage] = {}
    thumbnails: dict[int, str] = {}
    message: str | None = None
    updated_at: datetime | None = None

    @property
    def safe_to_send(self) -> bool:
        """Whether asking cannot pay twice."""
        told = self.generation.credits_used if self.generation else None
        return self.state in ("planned", "not_charged") or (self.state == "failed" and told == 0)

    @property
    def can_be_polled(self) -> bool:
        """Whether the API can be asked, at no cost, what became of it."""
        return self.state in ("submitted", "unknown") and self.generation_id is not None

    @property
    def missing(self) -> dict[int, str]:
        """The image URLs that are not in S3 yet, by place."""
        urls = self.generation.image_urls if self.generation else ()
        return {n: url for n, url in enumerate(urls, self.offset + 1) if n not in self.images}


class Claimed(NanoBananaError):
    """Another run of the batch has this prompt in hand."""


class Ledger:
    """The records of one batch.

    Args:
        bucket: Where they are.
        batch: The batch's name.
        flow_run: Goes into the records, to tell who asked.
    """

    def __init__(self, bucket: ObjectStore, batch: str, flow_run: str | None = None) -> None:
        self.bucket = bucket
        self.batch = batch
        self.flow_run = flow_run
        self._versions: dict[str, str] = {}
        self._attempts: dict[str, str | None] = {}

    def read(self, wanted: Iterable[str]) -> dict[str, Record]:
        """Read the records that there are of some prompts.

        Args:
            wanted: The prompts' keys.

        Returns:
            The records that exist, by key.

        Raises:
            BucketNotUsable: If the bucket does not let itself be read.
            LedgerError: If any record that exists cannot be read.
        """
        known = self._known()
        return self._read_all([key for key in wanted if key in known])

    def read_others(self, wanted: Iterable[str]) -> dict[str, Record]:
        """Read the records of the batch that are not of these prompts; see `read`."""
        return self._read_all(sorted(self._known() - set(wanted)))

    def write(self, record: Record) -> None:
        """Write a record.

        Raises:
            BucketNotUsable: If nothing can be written there.
            LedgerError: If it could not be written for another reason.
        """
        self._put(record)

    def claim(self, record: Record) -> None:
        """Write a record only if nobody else has since this ledger read or wrote it.

        Of two runs that ask for a prompt at the same moment, one gets past this, where the store honours
        conditional writes (AWS, Ceph and others). Elsewhere the record is read before, and again a
        moment after: both get past it only if one takes longer than that moment from reading to writing.

        Raises:
            Claimed: If another run has written it.
            BucketNotUsable: If nothing can be written there.
            LedgerError: If it could not be written for another reason.
        """
        if not self.bucket.conditional and self._attempt(record.key) != self._attempts.get(record.key):
            raise Claimed(_CLAIMED)
        self._put_if_unchanged(record)
        if self.bucket.conditional is False:
            time.sleep(CLAIM_SECONDS)
            if not self.holds(record):
                raise Claimed(_CLAIMED)

    def _put_if_unchanged(self, record: Record) -> None:
        version = self._versions.get(record.key)
        if version is None:
            conditions = [{"IfNoneMatch": "*"}]
        else:
            # Ceph's radosgw, as of version 16, knows its own tags only without their quotes.
            conditions = [{"IfMatch": version}, {"IfMatch": version.strip('"')}]
        for condition in conditions:
            try:
                return self._put(record, **condition)
            except PreconditionFailed:
                # A write whose answer was lost is sent again by boto3, and then meets itself.
                if self.holds(record):
                    return None
                if self._versions.get(record.key) != version:
                    break
        raise Claimed(_CLAIMED)

    def probe(self, record: Record) -> bool:
        """Find out whether the store honours conditional writes.

        Args:
            record: One that this ledger has just written; it is written once more, as it is.

        Returns:
            Whether it does.

        Raises:
            BucketNotUsable: If nothing can be written there.
            LedgerError: If it could not be written for another reason.
        """
        try:
            self._put(record, IfNoneMatch="*")
        except PreconditionFailed:
            self.bucket.conditional = True
        else:
            self.bucket.conditional = False
        return self.bucket.conditional

    def holds(self, record: Record) -> bool:
        """Whether what is stored is this very attempt.

        Raises:
            LedgerError: If that cannot be read.
        """
        return self._attempt(record.key) == record.attempt

    def _attempt(self, key: str) -> str | None:
        """Which attempt the stored record is of, if there is one."""
        record = self._find(key)
        return record.attempt if record else None

    def _put(self, record: Record, **condition: Any) -> None:
        record.updated_at = datetime.now(UTC)
        body = record.model_dump_json(indent=1, exclude_none=True).encode()
        path = self._path(record.key)
        try:
            written = self.bucket.put(path, body, "application/json", **condition)
        except (BucketNotUsable, PreconditionFailed):
            raise
        except StorageError as error:
            raise LedgerError(f"a record could not be written: {error}") from None
        self._versions[record.key] = written["ETag"]
        self._attempts[record.key] = record.attempt

    def _known(self) -> set[str]:
        prefix = self.bucket.key(self.batch, "records") + "/"
        names = (key.removeprefix(prefix) for key, _ in self.bucket.keys(prefix))
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def _read_all(self, keys: Sequence[str]) -> dict[str, Record]:
        with ThreadPoolExecutor(POOL_CONNECTIONS // 2) as pool:
            return {record.key: record for record in pool.map(self._read, keys)}

    def _path(self, key: str) -> str:
        return self.bucket.key(self.batch, "records", f"{key}.json")

    def _read(self, key: str) -> Record:
        record = self._find(key)
        if record is None:
            uri = self.bucket.uri(self._path(key))
            raise LedgerError(
                f"a record could not be read, so nothing is spent: {uri} was listed, and is not there"
            )
        self._attempts[key] = record.attempt
        return record

    def _find(self, key: str) -> Record | None:
        try:
            found = self.bucket.find(self._path(key))
        except BucketNotUsable:
            raise
        except StorageError as error:
            raise LedgerError(f"a record could not be read, so nothing is spent: {error}") from None
        if found is None:
            return None
        content, version = found
        try:
            record = Record.model_validate_json(content)
        except ValidationError:
            raise LedgerError(
                f"the record {self._path(key)} cannot be read, so nothing is spent: mend it, or remove "
                "it if its prompt may be paid for again"
            ) from None
        if record.version != 1:
            raise LedgerError(
                f"the record {self._path(key)} was written by a newer version: update the package"
            )
        self._versions[key] = version
        return record


def batches_with_records(bucket: ObjectStore, since: datetime) -> dict[str, list[str]]:
    """Find the records of all batches in a bucket's folder.

    Args:
        bucket: Where.
        since: Records that were written before are left out.

    Returns:
        Their keys, by batch.

    Raises:
        BucketNotUsable: If the bucket cannot be listed.
    """
    root = bucket.key() + "/" if bucket.key() else ""
    found: dict[str, list[str]] = {}
    for path, written in bucket.keys(root):
        match = re.fullmatch(r"(.+)/records/([0-9a-f]{24})\.json", path.removeprefix(root))
        if match and written >= since:
            found.setdefault(match[1], []).append(match[2])
    return found
