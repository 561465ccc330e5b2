"""Where deployments of version 0.1 find the daily flow, now `prefect_nanobanana.flows.daily_images`."""

from prefect_nanobanana.flows import daily_images

__all__ = ["daily_images"]
