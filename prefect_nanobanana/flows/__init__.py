"""The flows that people run."""

from prefect_nanobanana.flows._daily import daily_images
from prefect_nanobanana.flows._derive import derive_sizes
from prefect_nanobanana.flows._describe import describe_images
from prefect_nanobanana.flows._images import generate_images
from prefect_nanobanana.flows._parts import generate_in_parts, generate_part
from prefect_nanobanana.flows._pending import copy_pending
from prefect_nanobanana.flows._plans import plan_images
from prefect_nanobanana.flows._publish import publish_batches
from prefect_nanobanana.flows._retention import apply_retention
from prefect_nanobanana.flows._review import review_images

__all__ = [
    "apply_retention",
    "copy_pending",
    "daily_images",
    "derive_sizes",
    "describe_images",
    "generate_images",
    "generate_in_parts",
    "generate_part",
    "plan_images",
    "publish_batches",
    "review_images",
]
