"""A bucket block, opened: objects in and out."""

from prefect_nanobanana.s3._boto import POOL_CONNECTIONS
from prefect_nanobanana.s3._bucket import Bucket
from prefect_nanobanana.s3._errors import Changed, Damaged, StoreAway, status_of

__all__ = ["POOL_CONNECTIONS", "Bucket", "Changed", "Damaged", "StoreAway", "status_of"]
