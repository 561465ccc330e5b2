"""boto3's client as copies need it: it sends bodies in large pieces and hashes nothing twice."""

from __future__ import annotations

import functools
import io
import random
import threading
import time
from base64 import b64decode
from typing import IO, TYPE_CHECKING, Any

import botocore
from botocore import handlers
from botocore.auth import S3SigV4Auth
from botocore.config import Config

from prefect_nanobanana._common.backoff import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS
from prefect_nanobanana._version import __version__
from prefect_nanobanana.s3._answers import AnswerCheck
from prefect_nanobanana.s3._errors import CONFLICTS, may_pass

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_s3 import S3Client
    from prefect_aws import AwsCredentials, MinIOCredentials

ROLE_SECONDS = 3600
"""How long a role is assumed if nothing is said (AWS's documentation)."""
POOL_CONNECTIONS = 32
"""Copies and records of one run share the client's connections."""
TRIES = 5
"""So often a request is sent, unless the block says otherwise."""
_PIECE_BYTES = 1024 * 1024
_SHA256 = "nanobanana_sha256"
_lock = threading.Lock()


def session_of(credentials: AwsCredentials | MinIOCredentials) -> int:
    """The number of the session that a client is to be of.

    prefect-aws assumes a role once for each client, for an hour or as long as the block says, and runs
    may take longer: another session begins halfway. Other credentials never end, or boto3 renews them.
    """
    role: Any = credentials
    if not getattr(role, "assume_role_arn", None):
        return 0
    seconds: float = role.assume_role_kwargs.DurationSeconds or ROLE_SECONDS
    return int(time.monotonic() // (seconds / 2))


def client_of(
    credentials: AwsCredentials | MinIOCredentials, session: int, *, checksums: bool = True
) -> S3Client:
    """The client of a credentials block, one for all threads and runs, with connections enough for them.

    Args:
        credentials: The block.
        session: See `session_of`.
        checksums: Whether boto3 may add checksums of its own, and ask for those that the store keeps.

    Raises:
        BotoCoreError, ClientError, ValueError: If no client can be made of the block.
    """
    with _lock:
        return _made(credentials, session, checksums)


@functools.lru_cache(maxsize=8)
def _made(credentials: AwsCredentials | MinIOCredentials, _: int, checksums: bool) -> S3Client:
    # A new client costs a tenth of a second and 12 MB.
    options: dict[str, Any] = credentials.aws_client_parameters.get_params_override()
    config = Config(
        max_pool_connections=POOL_CONNECTIONS,
        # It sends a body again rightly after cuts and 503s; nothing of ours goes around it.
        retries={"mode": "standard", "total_max_attempts": TRIES},
        # The default for signed links is a form that newer regions and many stores refuse.
        signature_version="s3v4",
        # boto3 puts its own together anew for each request, a fifth of what one costs.
        user_agent=f"prefect-nanobanana/{__version__} Botocore/{botocore.__version__}",
    )
    if theirs := options.pop("config", None):
        config = config.merge(theirs)
    if not checksums:
        config = config.merge(
            Config(
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
        )
    if credentials.region_name:
        options["region_name"] = credentials.region_name
    session = credentials.get_boto3_session()
    client = session.client("s3", config=config, **options)
    events = client.meta.events
    events.register_first("before-parse.s3.*", AnswerCheck(client.meta.endpoint_url))
    # boto3's own check makes a 500 of a page that is no XML: it comes after ours, in this client alone.
    if own := getattr(handlers, "_handle_200_error", None):
        events.unregister("before-parse.s3.*", own)
        events.register("before-parse.s3.*", own)
    events.register_last("before-call.s3.PutObject", _send_at_once)
    merged: Any = client.meta.config
    tries = (merged.retries or {}).get("total_max_attempts", TRIES)
    again: Any = functools.partial(_seconds_to_wait, tries)
    events.register("needs-retry.s3.*", again)
    if keys := session.get_credentials():
        signer = _Signer(keys, client.meta.region_name)
        events.register("choose-signer.s3.PutObject", signer.choose)
        events.register("before-sign.s3.PutObject", signer.sign)
    return client


class _InLargePieces:
    """A file that gives larger pieces than urllib3 asks for: 20 MB in pieces of 16 KB take long."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(max(size, _PIECE_BYTES) if size > 0 else size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _seconds_to_wait(tries: int, attempts: int, response: Any = None, **_: Any) -> float | None:
    """Have boto3 send again what it takes for refused: a 429 in other words, a conflict, a proxy's 52x.

    Some stores take one write of an object per second (Cloudflare's and Google's documentation), and a
    record is written several times.
    """
    if response is None or attempts >= tries:
        return None
    answer, parsed = response
    conflict = answer.status_code == 409 and parsed.get("Error", {}).get("Code") in CONFLICTS
    if not conflict and not may_pass(answer.status_code):
        return None
    delay = FIRST_DELAY_SECONDS.get() * 2.0 ** (attempts - 1) * random.uniform(0.5, 1.0)
    return min(delay, LONGEST_DELAY_SECONDS)


def _send_at_once(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    if checksum := params["headers"].get("x-amz-checksum-sha256"):
        context[_SHA256] = b64decode(checksum).hex()
    # boto3 makes bytes a file, asks before it sends one, and sends it in pieces of 16 KB: for a small
    # body, all of that takes longer than sending it.
    if isinstance(params["body"], io.BytesIO):
        params["body"] = params["body"].getvalue()
        params["headers"].pop("Expect", None)
    else:
        params["body"] = _InLargePieces(params["body"])


class _HashedAlready(S3SigV4Auth):
    """Signs an upload with the SHA-256 that it carries anyway; boto3 would work it out anew."""

    def payload(self, request: Any) -> str:
        return str(request.context[_SHA256])


class _Signer:
    """Signs uploads that carry their SHA-256 in place of boto3's own signer.

    Args:
        credentials: What to sign with; they renew themselves.
        region: Where, unless boto3 has found another region.
    """

    def __init__(self, credentials: Credentials, region: str) -> None:
        self._credentials = credentials
        self._region = region

    def choose(
        self, context: dict[str, Any], signing_name: str, signature_version: Any, **_: Any
    ) -> Any:
        """Tell boto3 not to sign what is signed here."""
        if _SHA256 not in context:  # also of an address that is signed for somebody else to write to
            return None
        signs = (context["client_config"].s3 or {}).get("payload_signing_enabled", True)
        usual = signing_name == "s3" and signature_version in ("v4", "s3v4")
        return botocore.UNSIGNED if signs and usual else None

    def sign(self, request: Any, signature_version: Any, **_: Any) -> None:
        """Sign a request that boto3 leaves unsigned."""
        if signature_version is not botocore.UNSIGNED or _SHA256 not in request.context:
            return
        region = request.context.get("signing", {}).get("region") or self._region
        keys: Any = self._credentials.get_frozen_credentials()
        _HashedAlready(keys, "s3", region).add_auth(request)
