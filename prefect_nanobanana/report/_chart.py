"""What was spent each day, as a picture that can be read on light and on dark pages."""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from importlib.resources import files
from typing import Any

from jinja2 import Environment, Template

from prefect_nanobanana._common.text import in_credits, number
from prefect_nanobanana.models import Credits
from prefect_nanobanana.statements import StatementRow

_WIDTH, _HEIGHT = 720, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 698, 34, 192
_LABEL_EVERY = 7
_LEGEND_PIXELS = 170
# Each has a contrast of at least 3 to white and to Prefect's dark pages, as WCAG asks of graphics.
_PARTS = (("became pictures", "#3b82f6"), ("bought nothing", "#c26a05"), ("maybe paid", "#7d8194"))


def chart(rows: Iterable[StatementRow], days: Sequence[date]) -> str:
    """Draw what each day has cost, split by what it bought, as SVG.

    Args:
        rows: What was spent.
        days: Which days are shown, from left to right.
    """
    amounts = {day: [0.0, 0.0, 0.0] for day in days}
    for row in rows:
        if row.day in amounts:
            day = amounts[row.day]
            day[0] += float(row.credits - row.without_image)
            day[1] += float(row.without_image)
            day[2] += float(row.at_risk)
    step = _step(max((sum(parts) for parts in amounts.values()), default=0))
    top = step * 4
    scale = (_BOTTOM - _TOP) / top
    slot = (_RIGHT - _LEFT) / len(days)
    return _template().render(
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_RIGHT,
        bottom=_BOTTOM,
        title=f"Credits per day, {days[0]} to {days[-1]}",
        ticks=[{"y": _BOTTOM - n * step * scale, "label": number(n * step)} for n in range(5)],
        bars=[
            {
                "x": round(_LEFT + n * slot + slot * 0.15, 1),
                "width": round(slot * 0.7, 1),
                "middle": round(_LEFT + (n + 0.5) * slot, 1),
                "title": _words(day, amounts[day]),
                # Counted from today, which is the last.
                "label": f"{day:%d %b}" if (len(days) - 1 - n) % _LABEL_EVERY == 0 else "",
                "parts": _stacked(amounts[day], scale),
            }
            for n, day in enumerate(days)
        ],
        legend=[
            {"x": _LEFT + n * _LEGEND_PIXELS, "name": name, "colour": colour}
            for n, (name, colour) in enumerate(_PARTS)
        ],
    )


def as_image(svg: str, description: str) -> str:
    """A picture as HTML that needs no other file; Prefect's UI strips SVG that is not an image.

    Args:
        svg: The picture.
        description: What it shows, without quotes.
    """
    body = base64.b64encode(svg.encode()).decode()
    return f'<img width="{_WIDTH}" alt="{description}" src="data:image/svg+xml;base64,{body}">'


def days_until(last: date, count: int) -> list[date]:
    """So many days, the last one at the end."""
    return [last - timedelta(days=n) for n in reversed(range(count))]


def _stacked(amounts: Sequence[float], scale: float) -> list[dict[str, Any]]:
    parts, y = [], float(_BOTTOM)
    for amount, (_, colour) in zip(amounts, _PARTS, strict=True):
        height = amount * scale
        y -= height
        if amount > 0:
            parts.append({"y": round(y, 2), "height": round(height, 2), "colour": colour})
    return parts


def _step(highest: float) -> int:
    """A round number of credits, four of which are at least as many."""
    least = max(1.0, highest / 4)
    power: int = 10 ** math.floor(math.log10(least))
    return math.ceil(next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= least))


def _words(day: date, amounts: Sequence[Credits | float]) -> str:
    split = ", ".join(
        f"{number(amount)} {name}" for amount, (name, _) in zip(amounts, _PARTS, strict=True) if amount
    )
    return f"{day}: {in_credits(sum(amounts))}" + (f" ({split})" if split else "")


@functools.cache
def _template() -> Template:
    text = files("prefect_nanobanana.report").joinpath("templates/credits.svg.j2").read_text("utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
