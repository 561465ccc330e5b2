"""The values that the package hands around. Those that it hands to users are frozen."""

from prefect_nanobanana.models.base import (
    Credits,
    Moment,
    Text,
    describe_errors,
    exact_credits,
    json_number,
    not_negative,
    refuse_half_characters,
)
from prefect_nanobanana.models.charges import Caller, Charge, ChargeStatus
from prefect_nanobanana.models.generations import (
    DIGITAL_SOURCE_TYPE,
    URL_LIFETIME_DAYS,
    Generation,
    GenerationStatus,
    Mode,
    StoredImage,
    Submission,
)
from prefect_nanobanana.models.lines import Line, parse_json, read_lines, to_lines
from prefect_nanobanana.models.outcomes import (
    BUDGET_SPENT,
    CEILING_REACHED,
    AskAgain,
    Outcome,
    OutcomeStatus,
    PendingReport,
    RunReport,
    Try,
)
from prefect_nanobanana.models.parts import Part
from prefect_nanobanana.models.plans import ModelTotal, Plan, PlannedPrompt, PlannedStep, sum_credits
from prefect_nanobanana.models.prompts import (
    DEFAULT_ASPECT_RATIO,
    DEFAULT_MODEL,
    MAX_PROMPT_CHARACTERS,
    MAX_QUANTITY,
    ImageModel,
    ImagePrompt,
    ImageRequest,
    clean_reference_urls,
    prompt_problems,
    unsigned_prompt,
)
from prefect_nanobanana.models.provenance import Origin, Provenance
from prefect_nanobanana.models.retention import BatchUsage, PickStatus, RetentionPolicy, RetentionReport
from prefect_nanobanana.models.reviews import ReviewReport
from prefect_nanobanana.models.templates import PromptTemplate

__all__ = [
    "BUDGET_SPENT",
    "CEILING_REACHED",
    "DEFAULT_ASPECT_RATIO",
    "DEFAULT_MODEL",
    "DIGITAL_SOURCE_TYPE",
    "MAX_PROMPT_CHARACTERS",
    "MAX_QUANTITY",
    "URL_LIFETIME_DAYS",
    "AskAgain",
    "BatchUsage",
    "Caller",
    "Charge",
    "ChargeStatus",
    "Credits",
    "Generation",
    "GenerationStatus",
    "ImageModel",
    "ImagePrompt",
    "ImageRequest",
    "Line",
    "Mode",
    "ModelTotal",
    "Moment",
    "Origin",
    "Outcome",
    "OutcomeStatus",
    "Part",
    "PendingReport",
    "PickStatus",
    "Plan",
    "PlannedPrompt",
    "PlannedStep",
    "PromptTemplate",
    "Provenance",
    "RetentionPolicy",
    "RetentionReport",
    "ReviewReport",
    "RunReport",
    "StoredImage",
    "Submission",
    "Text",
    "Try",
    "clean_reference_urls",
    "describe_errors",
    "exact_credits",
    "json_number",
    "not_negative",
    "parse_json",
    "prompt_problems",
    "read_lines",
    "refuse_half_characters",
    "sum_credits",
    "to_lines",
    "unsigned_prompt",
]
