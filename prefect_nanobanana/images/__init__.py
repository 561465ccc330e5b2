"""From an image's URL to S3."""

from prefect_nanobanana.images._copier import Copied, Copier
from prefect_nanobanana.images._fetcher import Fetcher
from prefect_nanobanana.images._sizes import Format, smaller_copies

__all__ = ["Copied", "Copier", "Fetcher", "Format", "smaller_copies"]
