"""Requests to the store of a bucket block, by what is known of that store."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from prefect_nanobanana.errors import BucketNotUsable, StorageError
from prefect_nanobanana.s3._boto import client_of, session_of
from prefect_nanobanana.s3._capabilities import Capabilities
from prefect_nanobanana.s3._errors import problem
from prefect_nanobanana.s3._locations import endpoint_problem

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from prefect_aws import S3Bucket

FAILURES = (
    BotoCoreError,
    ClientError,
    ResponseParserError,
    KeyError,
    TypeError,
    ValueError,
    RecursionError,
)
"""What boto3 raises: the last ones for answers that it does not expect."""


class Connection:
    """Sends requests to a bucket, and remembers what its store does not take.

    Args:
        block: The `S3Bucket` block of prefect-aws.
        capabilities: What is known of the store already.
    """

    def __init__(self, block: S3Bucket, capabilities: Capabilities) -> None:
        self._block = block
        self._capabilities = capabilities
        self._learning = threading.Lock()
        self._client: tuple[tuple[int, bool], S3Client] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Clients and locks stay where they are; another process makes its own.
        return Connection, (self._block, self._capabilities)

    @property
    def capabilities(self) -> Capabilities:
        """What is known of the store so far."""
        return self._capabilities

    def learn(self, **changes: Any) -> None:
        """Remember something of the store."""
        with self._learning:
            self._capabilities = replace(self._capabilities, **changes)

    @property
    def client(self) -> S3Client:
        """The boto3 client, which all buckets of a credentials block share.

        Raises:
            BucketNotUsable: If no client can be made of the block.
        """
        credentials = self._block.credentials
        wanted = session_of(credentials), self._capabilities.accepts_checksums
        if self._client is None or self._client[0] != wanted:
            try:
                client = client_of(credentials, wanted[0], checksums=wanted[1])
            except FAILURES as error:
                raise self.problem(error) from None
            name = self._block.bucket_name
            if wrong := endpoint_problem(client.meta.endpoint_url, name):
                raise BucketNotUsable(f"bucket {name!r}: {wrong}")
            self._client = wanted, client
            return client
        return self._client[1]

    @property
    def sends_checksums(self) -> bool:
        """Whether uploads carry their checksum: unless the store refuses that, or the block says no."""
        config: Any = self.client.meta.config
        wanted = config.request_checksum_calculation != "when_required"
        return wanted and self._capabilities.accepts_checksums

    def call(self, operation: str, **request: Any) -> Any:
        """Send one request, and once more without a header that the store refuses by its name.

        Args:
            operation: Of the client, as `put_object`.
            **request: Its parameters; those that are None are left out.

        Returns:
            boto3's answer.

        Raises:
            BucketNotUsable: If no client can be made, or what answers is no store.
            BotoCoreError, ClientError and the others of `FAILURES`: As boto3 does.
        """
        request = {"Bucket": self._block.bucket_name, **request}
        while True:
            known, client = self._capabilities, self.client
            sent = {name: value for name, value in known.fit(request).items() if value is not None}
            if not self.sends_checksums:
                sent.pop("ChecksumSHA256", None)
            config: Any = client.meta.config
            if config.response_checksum_validation == "when_required":
                sent.pop("ChecksumMode", None)
            try:
                return getattr(client, operation)(**sent)
            except ClientError as error:
                if known.after(error, sent) == known:
                    raise
                with self._learning:
                    self._capabilities = self._capabilities.after(error, sent)
            body: Any = request.get("Body")
            if hasattr(body, "seek"):
                body.seek(0)

    def problem(self, error: Exception, key: str | None = None) -> StorageError:
        """Say what an error of boto3 means here."""
        return problem(error, self._block.bucket_name, key)
