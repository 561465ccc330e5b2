"""The flows that people run."""

from prefect_nanobanana.flows._daily import daily_images
from prefect_nanobanana.flows._images import generate_images
from prefect_nanobanana.flows._pending import copy_pending

__all__ = ["copy_pending", "daily_images", "generate_images"]
