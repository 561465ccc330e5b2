"""The sandbox's account: its credits, its slots and what it generated."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

REFUSED_WORDS = ("gore", "gory", "nude", "naked", "bloody", "beheaded")
"""A prompt with one of these words meets the safety check."""


@dataclass(frozen=True)
class SandboxModel:
    """A model on offer."""

    name: str
    display_name: str
    credits_cost: int
    supports_image_input: bool = True
    supports_aspect_ratio: bool = True
    requires_pro: bool = False

    def as_json(self) -> dict[str, Any]:
        """As `GET /models` shows it."""
        return {
            "name": self.name,
            "displayName": self.display_name,
            "creditsCost": self.credits_cost,
            "supportsImageInput": self.supports_image_input,
            "supportsAspectRatio": self.supports_aspect_ratio,
            "requiresPro": self.requires_pro,
        }


MODELS = (
    SandboxModel("nano-banana", "Nano Banana", 1),
    SandboxModel("nanobanan-2", "Nano Banana 2", 2),
    SandboxModel("nanobanan-2-2k", "Nano Banana 2 (2K)", 4, requires_pro=True),
    SandboxModel("seedream-5.0-2k", "Seedream 5.0 (2K)", 3, supports_image_input=False),
)


@dataclass
class GenerationRow:
    """One generation as the account's books hold it."""

    generation_id: str
    prompt: str
    model: str
    mode: str
    quantity: int
    references: tuple[str, ...]
    aspect_ratio: str
    credits: int
    status: str = "processing"
    message: str | None = None
    files: list[str] = field(default_factory=list)
    created_at: float = field(default_factory=time.time)

    def end(
        self, status: str, message: str | None = None, *, files: Sequence[str] = (), refund: bool = False
    ) -> None:
        """Say how it ended; the status is written last, as other threads wait for it.

        Args:
            status: `completed`, `warning` or `failed`.
            message: What went wrong.
            files: Paths of its images.
            refund: Whether it costs nothing after all.
        """
        if refund:
            self.credits = 0
        self.files = list(files)
        self.message = message
        self.status = status


class OutOfCredits(Exception):
    """The account cannot pay for it."""


class TooManyOpen(Exception):
    """All of the account's slots are taken."""


class Account:
    """One account: what it has, what it may have open at once, and what it was charged for.

    Args:
        credits: Its balance in credits.
        limit: How many requests it may have open at once.
        models: What it may ask for.
    """

    def __init__(
        self, credits: int = 100, limit: int = 1, models: Sequence[SandboxModel] = MODELS
    ) -> None:
        self.limit = limit
        self.models = {model.name: model for model in models}
        self.posts = 0
        """Generate requests that arrived, whatever became of them."""
        self.refusals = 0
        """Generate requests answered with 429."""
        self.open = 0
        self.most_open = 0
        self.first_opened: float | None = None
        """When the first request was opened, by the machine's monotonic clock."""
        self.last_closed: float | None = None
        """When a request was last closed, by the same clock."""
        self.last_opened: float | None = None
        """When a request was last opened, by the same clock."""
        self.busy_until_last_opened = 0.0
        """What `busy_seconds` was then."""
        self._busy = 0.0
        self._busy_until = 0.0
        self._credits = credits
        self._rows: dict[str, GenerationRow] = {}
        self._lock = threading.Lock()

    @property
    def credits(self) -> int:
        """The balance."""
        with self._lock:
            return self._credits

    @credits.setter
    def credits(self, value: int) -> None:
        with self._lock:
            self._credits = value

    @property
    def rows(self) -> list[GenerationRow]:
        """All generations, oldest first."""
        with self._lock:
            return list(self._rows.values())

    @property
    def charged(self) -> int:
        """Credits taken in all."""
        return sum(row.credits for row in self.rows)

    def arrived(self) -> None:
        """Count a generate request."""
        with self._lock:
            self.posts += 1

    def take_slot(self) -> None:
        """Open a request.

        Raises:
            TooManyOpen: If the account has as many open as it may.
        """
        with self._lock:
            if self.open >= self.limit:
                self.refusals += 1
                raise TooManyOpen
            now = self._pass_time()
            if self.first_opened is None:
                self.first_opened = now
            self.last_opened, self.busy_until_last_opened = now, self._busy
            self.open += 1
            self.most_open = max(self.most_open, self.open)

    def give_slot(self) -> None:
        """Close a request."""
        with self._lock:
            self.last_closed = self._pass_time()
            self.open -= 1

    @property
    def busy_seconds(self) -> float:
        """For how long requests were open until now, added up: two open for 3 s are 6 s."""
        with self._lock:
            self._pass_time()
            return self._busy

    @property
    def open_seconds(self) -> float:
        """From the first request's opening to the last one's closing."""
        with self._lock:
            if self.first_opened is None or self.last_closed is None:
                return 0.0
            return self.last_closed - self.first_opened

    def _pass_time(self) -> float:
        """Add up until now; the lock is held."""
        now = time.monotonic()
        self._busy += self.open * (now - self._busy_until)
        self._busy_until = now
        return now

    def cost(self, model: str, references: int, quantity: int) -> int:
        """Credits of one request, by the vendor's formula."""
        return (self.models[model].credits_cost + max(0, references - 1)) * quantity

    def charge(
        self,
        *,
        prompt: str,
        model: str,
        mode: str,
        quantity: int,
        references: Sequence[str],
        aspect_ratio: str,
    ) -> GenerationRow:
        """Take the credits and open a row in the books.

        Raises:
            OutOfCredits: If the balance is too low.
        """
        cost = self.cost(model, len(references), quantity)
        with self._lock:
            if self._credits < cost:
                raise OutOfCredits
            self._credits -= cost
            row = GenerationRow(
                "clsandbox" + secrets.token_hex(8),
                prompt,
                model,
                mode,
                quantity,
                tuple(references),
                aspect_ratio,
                cost,
            )
            self._rows[row.generation_id] = row
            return row

    def refund(self, row: GenerationRow) -> None:
        """Give the credits of a generation back."""
        with self._lock:
            self._credits += row.credits
            row.end("failed", "refunded", refund=True)

    def find(self, generation_id: str) -> GenerationRow | None:
        """The generation with this id."""
        with self._lock:
            return self._rows.get(generation_id)


def refused_by_safety(prompt: str) -> bool:
    """Whether the sandbox's safety check refuses a prompt."""
    return any(re.search(rf"\b{word}\b", prompt, re.IGNORECASE) for word in REFUSED_WORDS)
