"""Prefect blocks, tasks and flows for the Nano Banana image API.

Imported by every process that loads any Prefect block, so it imports neither boto3 nor prefect-aws.
The main job is in `prefect_nanobanana.flows`, the local server in `prefect_nanobanana.sandbox`.
"""

from ._version import __version__
from .credentials import NanoBananaCredentials
from .errors import (
    AccessNotEnabled,
    AnswerNotUnderstood,
    ApiError,
    AuthenticationFailed,
    BadRequest,
    BooksDoNotBalance,
    BucketNotUsable,
    ConcurrencyLimitReached,
    CreditsUsedUp,
    ImageNotCopied,
    InvalidInput,
    LedgerError,
    NanoBananaError,
    NeverDelivered,
    NotCharged,
    Paced,
    Rejected,
    RunFailed,
    ServerBusy,
    StorageError,
    UnknownOutcome,
)
from .generator import NanoBananaGenerator
from .models import Generation, ImageModel, ImagePrompt, Outcome, RunReport, StoredImage
from .progress import Progress, watch_progress
from .tasks import agenerate_image, copy_image_to_s3, generate_image, get_credits, list_models

__all__ = [
    "AccessNotEnabled",
    "AnswerNotUnderstood",
    "ApiError",
    "AuthenticationFailed",
    "BadRequest",
    "BooksDoNotBalance",
    "BucketNotUsable",
    "ConcurrencyLimitReached",
    "CreditsUsedUp",
    "Generation",
    "ImageModel",
    "ImageNotCopied",
    "ImagePrompt",
    "InvalidInput",
    "LedgerError",
    "NanoBananaCredentials",
    "NanoBananaError",
    "NanoBananaGenerator",
    "NeverDelivered",
    "NotCharged",
    "Outcome",
    "Paced",
    "Progress",
    "Rejected",
    "RunFailed",
    "RunReport",
    "ServerBusy",
    "StorageError",
    "StoredImage",
    "UnknownOutcome",
    "__version__",
    "agenerate_image",
    "copy_image_to_s3",
    "generate_image",
    "get_credits",
    "list_models",
    "watch_progress",
]
