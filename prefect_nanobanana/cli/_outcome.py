"""How a command ends: what it prints, and its exit code."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from prefect_nanobanana._common.text import visible

Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
"""Whether a command prints one line for programs."""


def print_error(message: str) -> None:
    """Print to standard error; whatever a message quotes, the terminal obeys none of it."""
    print(visible(message), file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value for programs: one line of JSON, and nothing besides."""
    print(json.dumps(value, ensure_ascii=False, default=str))


def ended(error: Exception) -> int:
    """Say why a command did not do what it should.

    Returns:
        The exit code: 2 for what is wrong with its words, keys or addresses.

    Raises:
        Exception: The error itself, if nobody expects it.
    """
    # Imported here, as they bring Prefect and boto3 along, which help and completion do without.
    from prefect.exceptions import PrefectException
    from pydantic import ValidationError

    from prefect_nanobanana.errors import NanoBananaError

    if isinstance(error, ValidationError):
        from prefect_nanobanana.models import describe_errors

        print_error("nothing was spent: " + "; ".join(describe_errors(error)))
        return 2
    if isinstance(error, NanoBananaError):
        print_error(f"nothing was spent: {error}")
        return 2
    if isinstance(error, PrefectException | RuntimeError | OSError):
        print_error(str(error))
        return 2
    raise error
