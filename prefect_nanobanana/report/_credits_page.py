"""What an account has spent over many runs, as a page in Prefect's UI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from prefect.artifacts import create_markdown_artifact

from prefect_nanobanana._common.naming import slug
from prefect_nanobanana._common.text import counted, in_credits, number, plain
from prefect_nanobanana.models import ChargeStatus, Credits
from prefect_nanobanana.report._artifacts import SHOWN_LINES
from prefect_nanobanana.report._chart import as_image, chart, days_until
from prefect_nanobanana.statements import StatementRow

DAYS = 31
"""So many days are shown, today included."""
_ENDS: dict[ChargeStatus, str] = {
    "stored": "pictures in S3",
    "waiting": "pictures not copied yet",
    "warning": "refused by the safety check",
    "failed": "failed, or pictures lost",
    "unknown": "no answer",
    "earlier": "asked again since",
}


@dataclass(frozen=True)
class AccountCredits:
    """What an account has spent, and what it has left.

    Attributes:
        account: What tells accounts apart.
        place: The address of the folder whose batches are counted.
        today: The last day that counts, UTC.
        rows: What was spent.
        balance: What the account has left, in credits; None if it is not known.
        budget: What is left of a budget, in words; None without one.
    """

    account: str
    place: str
    today: date
    rows: Sequence[StatementRow]
    balance: Credits | None
    budget: str | None = None

    @property
    def key(self) -> str:
        """The artifact's key: one per account and folder."""
        return f"nanobanana-credits-{self.account}-{slug(self.place.removeprefix('s3://'), 60)}"

    def summary(self) -> str:
        """The page in one line."""
        line = f"{in_credits(_sum(self.rows, 'credits'))} in {counted(DAYS, 'day')}"
        line += f", {counted(_sum(self.rows, 'images'), 'picture')}"
        if price := _per_image(self.rows):
            line += f", {price} each"
        if nothing := _sum(self.rows, "without_image"):
            line += f"; {number(nothing)} bought nothing"
        if self.balance is not None:
            line += f"; {number(self.balance)} left"
        return line


def credits_page(found: AccountCredits) -> str:
    """The page: a chart, and what was spent by end, day, flow and model."""
    days = days_until(found.today, DAYS)
    rows = [row for row in found.rows if row.day in days]
    balance = "not known" if found.balance is None else in_credits(found.balance)
    parts = [
        "# Credits",
        f"**{plain(found.summary(), None)}**",
        f"Account `{found.account}`; all batches in {plain(found.place)}; days are UTC.  \n"
        f"Balance: {balance}." + (f"  \nBudget: {plain(found.budget, None)}." if found.budget else ""),
        as_image(chart(rows, days), f"Credits per day, {days[0]} to {days[-1]}"),
        _table("what it bought", rows, lambda row: _ENDS[row.status]),
        _table("flow", rows, lambda row: row.flow or "not recorded"),
        _table("model", rows, lambda row: row.model),
        _table("day", rows, lambda row: row.day.isoformat(), newest_first=True),
    ]
    return "\n\n".join(parts) + "\n"


def create_account_credits(found: AccountCredits, balance: Credits | None) -> None:
    """Make the artifact that says what an account has spent.

    Args:
        found: What it has spent.
        balance: What it has left, in credits, if that is known.
    """
    found = replace(found, balance=balance)
    create_markdown_artifact(credits_page(found), key=found.key, description=f"{found.summary()}.")


def _table(
    what: str,
    rows: Iterable[StatementRow],
    by: Callable[[StatementRow], str],
    *,
    newest_first: bool = False,
) -> str:
    groups: dict[str, list[StatementRow]] = {}
    for row in rows:
        groups.setdefault(by(row), []).append(row)
    order = (
        sorted(groups, reverse=True)
        if newest_first
        else sorted(groups, key=lambda name: (-_sum(groups[name], "credits"), name))
    )
    lines = [
        f"| {what} | requests | credits | pictures | credits each | bought nothing | maybe paid |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in order[:SHOWN_LINES]:
        its = groups[name]
        numbers = [
            number(_sum(its, "requests")),
            number(_sum(its, "credits")),
            number(_sum(its, "images")),
            _per_image(its),
            number(_sum(its, "without_image")),
            number(_sum(its, "at_risk")),
        ]
        lines.append(f"| {plain(name)} | " + " | ".join(numbers) + " |")
    if len(order) > SHOWN_LINES:
        lines.append(f"| and {len(order) - SHOWN_LINES} more | | | | | | |")
    return "\n".join(lines)


def _sum(rows: Iterable[StatementRow], field: str) -> Any:
    return sum(getattr(row, field) for row in rows)


def _per_image(rows: Sequence[StatementRow]) -> str:
    """What a picture in S3 has cost, with all that bought none."""
    images = _sum(rows, "images")
    return number(float(_sum(rows, "credits")) / images) if images else ""
