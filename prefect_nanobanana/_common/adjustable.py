"""Values that a `with` block may replace: tests wait less, and patch nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Adjustable(Generic[T]):
    """A value of this process; what begins inside of a `with` block sees the block's.

    Args:
        default: What it is outside of all such blocks.
    """

    def __init__(self, default: T) -> None:
        self._values = [default]

    def get(self) -> T:
        """Return the value as it is now."""
        return self._values[-1]

    @contextmanager
    def use(self, value: T) -> Iterator[None]:
        """Replace the value inside of the block, for all threads."""
        self._values.append(value)
        try:
            yield
        finally:
            self._values.remove(value)
