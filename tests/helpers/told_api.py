"""An API that answers to the letter as a test says, and keeps books of what it has charged."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from prefect_aws import S3Bucket
from pydantic import SecretStr
from servers import Reply, Scripted, Seen

from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator, RunFailed, RunReport
from prefect_nanobanana.flows import generate_images

BALANCE = 1000


def reply(body: Any, status: int = 200, **more: Any) -> Reply:
    """An answer in JSON, or of the bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(content, status, more.pop("headers", {"Content-Type": "application/json"}), **more)


def made(number: int = 1, **changes: Any) -> Reply:
    """A sync answer; what is None is left out. `@` stands for where pictures are."""
    facts = {"generationId": f"g{number}", "imageUrls": [f"@{number}.png"], "creditsUsed": 1, **changes}
    return reply({"success": True} | {name: value for name, value in facts.items() if value is not None})


class ToldApi(Scripted):
    """Charges, and answers, as it is told. Use it as a context manager.

    Args:
        answers: By prompt: what each request for it is charged, in credits, and answered; the last one
            stands for all that follow.
        polls: By id: likewise what is answered to who asks for its end.
        listed: What the catalogue says that an image costs.
        balance: The credits of the account.
        seconds: How long each answer takes.
    """

    def __init__(
        self,
        answers: Mapping[str, Sequence[tuple[int, Reply]]],
        polls: Mapping[str, Sequence[Reply]] | None = None,
        *,
        listed: Any = 1,
        balance: int = BALANCE,
        seconds: float = 0.0,
    ) -> None:
        self._answers = {text: list(each) for text, each in answers.items()}
        self.polls = {name: list(each) for name, each in (polls or {}).items()}
        self._listed = listed
        self._seconds = seconds
        self._lock = threading.Lock()
        self.balance = balance
        self.asked_for_balance = 0
        self.bought = 0
        """Credits that somebody else brings to the account with the next request."""
        self.answering = threading.Event()
        """Cleared, it holds all answers with pictures back."""
        self.answering.set()
        self.posts: Counter[str] = Counter()
        self.charged: Counter[str] = Counter()
        super().__init__(self._answer)

    def _answer(self, seen: Seen) -> Reply:
        parts = urlsplit(seen.path)
        if parts.path.startswith("/files/"):
            body = io.BytesIO()
            Image.new("RGB", (24, 24), (len(parts.path), sum(parts.path.encode()) % 256, 9)).save(
                body, "PNG"
            )
            return Reply(body.getvalue(), 200, {"Content-Type": "image/png"})
        if parts.path.endswith("/models"):
            return reply({"data": [{"name": "nano-banana", "creditsCost": self._listed}]})
        if parts.path.endswith("/credits"):
            self.asked_for_balance += 1
            return reply({"data": {"credits": self.balance}})
        if seen.method == "GET":
            return self._next(self.polls, parse_qs(parts.query)["id"][0])
        text = json.loads(seen.body)["prompt"]
        with self._lock:
            each = self._answers[text]
            cost, answer = each.pop(0) if len(each) > 1 else each[0]
            self.posts[text] += 1
            self.charged[text] += cost
            self.balance += self.bought - cost
            self.bought = 0
        time.sleep(self._seconds)
        self.answering.wait(60)
        return self._whole(answer)

    def _next(self, answers: dict[str, list[Reply]], name: str) -> Reply:
        with self._lock:
            each = answers[name]
            return self._whole(each.pop(0) if len(each) > 1 else each[0])

    def _whole(self, answer: Reply) -> Reply:
        return replace(answer, body=answer.body.replace(b"@", f"{self.url}/files/".encode()))


Run = Callable[..., RunReport]


def runs(
    api: ToldApi, bucket: S3Bucket, mode: Any = "sync", slots: int = 1, patience: float = 1.0
) -> Run:
    """Runs the main job against it; a run that turned red yields its report too."""
    credentials = NanoBananaCredentials(
        api_key=SecretStr("nb_key"),
        base_url=f"{api.url}/api/v1",
        max_concurrent_requests=slots,
        request_timeout_seconds=patience,
    )
    generator = NanoBananaGenerator(credentials=credentials, mode=mode)

    def run(*prompts: Any, **changes: Any) -> RunReport:
        settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "batch": "b", **changes}
        try:
            report: Any = generate_images(prompts=list(prompts), **settings)
        except RunFailed as error:
            report = error.report
        assert isinstance(report, RunReport)
        counts = (report.stored, report.warnings, report.failed, report.unknown, report.skipped)
        assert sum(counts) == report.prompts == len(prompts)
        return report

    return run
