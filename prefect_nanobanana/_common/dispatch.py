"""The one place that takes something from Prefect's private parts.

`JobBlock` demands names that are awaited in async code and called in sync code, as `trigger`; Prefect's
own integrations make them with this.
"""

from prefect._internal.compatibility.async_dispatch import async_dispatch

__all__ = ["async_dispatch"]
