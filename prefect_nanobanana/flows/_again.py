"""What is asked again on request, and how earlier versions said that."""

import warnings
from collections.abc import Sequence
from typing import Literal

from prefect_nanobanana.models import AskAgain


def asked_again(
    ask_again: Sequence[AskAgain],
    on_unknown: Literal["keep", "resend"] | None,
    retry_warnings: bool | None,
    retry_failed: bool | None,
) -> frozenset[AskAgain]:
    """Say what is asked again; the last three are the names that an earlier version had for it."""
    asked = set(ask_again)
    former: dict[str, tuple[object, bool, AskAgain]] = {
        "on_unknown": (on_unknown, on_unknown == "resend", "unknown"),
        "retry_warnings": (retry_warnings, bool(retry_warnings), "warnings"),
        "retry_failed": (retry_failed, bool(retry_failed), "failed"),
    }
    for name, (given, wanted, what) in former.items():
        if given is not None:
            warnings.warn(
                f"{name} is deprecated, and the next version goes without it: write "
                f"ask_again=[{what!r}] instead",
                FutureWarning,
                stacklevel=3,
            )
        if wanted:
            asked.add(what)
    return frozenset(asked)
