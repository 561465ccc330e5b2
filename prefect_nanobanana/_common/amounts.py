"""Sums of credits as people add them: 0.1 and 0.2 are 0.3."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction


def exact(amount: float) -> Fraction:
    """An amount as it is written, not as the binary fraction that comes nearest to it.

    What is no number counts as nothing: a record that somebody has tampered with must not end a run.
    """
    return Fraction(str(amount)) if math.isfinite(amount) else Fraction(0)


def amount(value: Fraction) -> int | float:
    """An exact amount as a plain number: whole if it is."""
    return value.numerator if value.denominator == 1 else float(value)


def exact_sum(amounts: Iterable[float]) -> int | float:
    """Add up amounts without binary fractions."""
    return amount(sum(map(exact, amounts), Fraction(0)))
