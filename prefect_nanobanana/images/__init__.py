"""From an image's URL to S3."""

from prefect_nanobanana.images._copier import COPY_THREADS, Copied, Copier

__all__ = ["COPY_THREADS", "Copied", "Copier"]
