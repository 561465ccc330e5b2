"""Prefect blocks, tasks and flows for the Nano Banana image API.

Imported by every process that loads any Prefect block, so it imports neither boto3 nor prefect-aws.
The main job is in `prefect_nanobanana.flows`, the local server in `prefect_nanobanana.sandbox`.
"""

from prefect_nanobanana._version import __version__
from prefect_nanobanana.credentials import NanoBananaCredentials
from prefect_nanobanana.errors import (
    AccessNotEnabled,
    AnswerNotUnderstood,
    ApiError,
    AuthenticationFailed,
    BadRequest,
    BooksDoNotBalance,
    BucketNotUsable,
    CertificateNotTrusted,
    ConcurrencyLimitReached,
    CreditsUsedUp,
    ImageNotCopied,
    InvalidInput,
    LedgerError,
    ModelNotAllowed,
    NanoBananaError,
    NeverDelivered,
    NotCharged,
    Paced,
    QuotaExceeded,
    Rejected,
    RunFailed,
    ServerBusy,
    StillRunning,
    StorageError,
    StoreRefuses,
    UnknownOutcome,
)
from prefect_nanobanana.generation_run import GenerationRun
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.models import (
    Generation,
    ImageModel,
    ImagePrompt,
    Outcome,
    PendingReport,
    RunReport,
    StoredImage,
    Submission,
)
from prefect_nanobanana.progress import Progress, watch_progress
from prefect_nanobanana.storage_options import StorageOptions
from prefect_nanobanana.tasks import (
    agenerate_image,
    copy_image_to_s3,
    generate_image,
    get_credits,
    list_models,
)

__all__ = [
    "AccessNotEnabled",
    "AnswerNotUnderstood",
    "ApiError",
    "AuthenticationFailed",
    "BadRequest",
    "BooksDoNotBalance",
    "BucketNotUsable",
    "CertificateNotTrusted",
    "ConcurrencyLimitReached",
    "CreditsUsedUp",
    "Generation",
    "GenerationRun",
    "ImageModel",
    "ImageNotCopied",
    "ImagePrompt",
    "InvalidInput",
    "LedgerError",
    "ModelNotAllowed",
    "NanoBananaCredentials",
    "NanoBananaError",
    "NanoBananaGenerator",
    "NeverDelivered",
    "NotCharged",
    "Outcome",
    "Paced",
    "PendingReport",
    "Progress",
    "QuotaExceeded",
    "Rejected",
    "RunFailed",
    "RunReport",
    "ServerBusy",
    "StillRunning",
    "StorageError",
    "StorageOptions",
    "StoreRefuses",
    "StoredImage",
    "Submission",
    "UnknownOutcome",
    "__version__",
    "agenerate_image",
    "copy_image_to_s3",
    "generate_image",
    "get_credits",
    "list_models",
    "watch_progress",
]
