"""An API whose prices are not its catalogue's, and whose answers come in every form that is known."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from servers import Reply, Scripted, Seen

End = Literal["completed", "warning", "failed", "unknown", "refused"]
BALANCE = 1000
NOT_LISTED = object()
"""The catalogue does not have the model."""
DONE, FAILED = ("completed", "COMPLETED", "Succeeded"), ("failed", "FAILED", "Failure")
BEGUN = ("processing", "PENDING", "Queued")


@dataclass(frozen=True)
class Price:
    """What a model costs.

    Attributes:
        listed: What the catalogue says; None if it has the model without a price.
        charged: What is taken for each picture asked for, in credits.
    """

    listed: Any = 1
    charged: int = 1


@dataclass(frozen=True)
class Answer:
    """What a prompt asks for, and what becomes of it.

    Attributes:
        end: How it ends; `unknown` is charged and answered with 500, `refused` is a 400.
        model: The model that is asked.
        quantity: How many pictures are asked for.
        more: How many more come; or fewer, but one at least.
        number: The form of amounts.
        word: Which of the words for a status.
        urls: The field with the pictures.
        flag: Whether flags are texts, and one that says no is there, too.
        status: Of the HTTP answer.
        envelope: Whether it comes wrapped in `data`.
        begun: Whether a sync request is answered as an async one.
        refused_pictures: Whether a warning names pictures.
    """

    end: End = "completed"
    model: str = "nano-banana"
    quantity: int = 1
    more: int = 0
    number: Literal["number", "text", "float", "missing"] = "number"
    word: int = 0
    urls: Literal["imageUrls", "outputImageUrls", "outputImageUrl"] = "imageUrls"
    flag: bool = False
    status: int = 200
    envelope: bool = False
    begun: bool = False
    refused_pictures: bool = False

    @property
    def pictures(self) -> int:
        """How many come."""
        if self.end != "completed" and not (self.end == "warning" and self.refused_pictures):
            return 0
        return 1 if self.urls == "outputImageUrl" else max(1, self.quantity + self.more)


@dataclass
class Made:
    """A generation that was charged."""

    name: str
    answer: Answer
    pictures: list[str]
    polls: int = field(default=0)


class OddApi(Scripted):
    """Plays the API; its books say what was charged for. Use it as a context manager.

    Args:
        answers: By the text of the prompt.
        prices: By model.
    """

    def __init__(self, answers: Mapping[str, Answer], prices: Mapping[str, Price]) -> None:
        self._answers = answers
        self._prices = prices
        self._lock = threading.Lock()
        self._made: dict[str, Made] = {}
        self.posts: Counter[str] = Counter()
        """By text: how often it was asked for."""
        self.charges: list[tuple[str, int]] = []
        """Text and credits of each request that was charged."""
        self.pictures: dict[str, tuple[str, bytes]] = {}
        """By path: for which text a picture was made, and its bytes."""
        super().__init__(self._answer)

    @property
    def charged(self) -> Counter[str]:
        """Credits taken, by text."""
        sums: Counter[str] = Counter()
        for text, credits in self.charges:
            sums[text] += credits
        return sums

    def _answer(self, seen: Seen) -> Reply:
        parts = urlsplit(seen.path)
        if parts.path.startswith("/files/"):
            return Reply(self.pictures[parts.path][1], 200, {"Content-Type": "image/png"})
        if parts.path.endswith("/models"):
            return _json({"data": self._catalogue()})
        if parts.path.endswith("/credits"):
            return _json({"data": {"credits": BALANCE - self.charged.total()}})
        if seen.method == "GET":
            return self._poll(parse_qs(parts.query)["id"][0])
        return self._generate(json.loads(seen.body))

    def _catalogue(self) -> list[dict[str, Any]]:
        rows = []
        for name, price in self._prices.items():
            row = {"name": name, "displayName": name, "creditsCost": price.listed}
            if price.listed is None:
                del row["creditsCost"]
            if price.listed is not NOT_LISTED:
                rows.append(row)
        return rows

    def _generate(self, asked: dict[str, Any]) -> Reply:
        text = asked["prompt"]
        answer = self._answers[text]
        with self._lock:
            self.posts[text] += 1
            if answer.end == "refused":
                return _json({"error": "bad parameters"}, 400)
            cost = self._prices[answer.model].charged * answer.quantity
            self.charges.append((text, cost))
            made = Made(f"g{len(self.charges)}", answer, self._draw(text, answer.pictures))
            self._made[made.name] = made
        time.sleep(0.05)  # so that requests meet each other
        if answer.end == "unknown":
            return _json({"error": "Internal server error"}, 500)
        if asked["mode"] == "async" or answer.begun:
            begun = {"success": True, "async": True, "generationId": made.name, **self._amounts(made)}
            return _json(begun, answer.status)
        return _json(self._ended(made), answer.status)

    def _draw(self, text: str, pictures: int) -> list[str]:
        paths = []
        for _ in range(pictures):
            body, number = io.BytesIO(), len(self.pictures)
            Image.new("RGB", (24, 24), (number, number // 256, 9)).save(body, "PNG")
            paths.append(f"/files/{number}.png")
            self.pictures[paths[-1]] = text, body.getvalue()
        return paths

    def _poll(self, name: str) -> Reply:
        made = self._made[name]
        made.polls += 1
        if made.polls == 1:
            return _json({"data": {"id": name, "processingStatus": BEGUN[made.answer.word]}})
        return _json(self._ended(made))

    def _ended(self, made: Made) -> dict[str, Any]:
        answer = made.answer
        well = answer.end == "completed"
        facts: dict[str, Any] = {"generationId": made.name, **self._amounts(made)}
        if made.pictures:
            paths: Any = [self.url + path for path in made.pictures]
            facts[answer.urls] = paths[0] if answer.urls == "outputImageUrl" else paths
        if answer.flag and answer.end != "warning":
            facts["warning"] = "false"
        if answer.end == "warning":
            facts |= {
                "warning": "true" if answer.flag else True,
                "message": "Content safety check failed",
            }
        if answer.end == "failed":
            facts["error"] = "The model returned no image"
        if answer.envelope:
            word = (DONE if well else FAILED)[answer.word]
            return {"data": {"id": facts.pop("generationId"), "processingStatus": word, **facts}}
        return {"success": str(well).lower() if answer.flag else well, **facts}

    def _amounts(self, made: Made) -> dict[str, Any]:
        cost = self._prices[made.answer.model].charged * made.answer.quantity
        told: Any
        match made.answer.number:
            case "text":
                told = str(cost)
            case "float":
                told = float(cost)
            case "number":
                told = cost
            case _:
                return {}
        return {"creditsUsed": told, "remainingCredits": BALANCE - self.charged.total()}


def _json(body: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(body).encode(), status, {"Content-Type": "application/json"})
