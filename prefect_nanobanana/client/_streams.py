"""One event stream of the API, as it arrives. No I/O here."""

from __future__ import annotations

from typing import Any

from prefect_nanobanana.client._generations import event_id, read_last_event
from prefect_nanobanana.client._hooks import GenerationHooks
from prefect_nanobanana.client._payload import one_line, text_of, whole_number
from prefect_nanobanana.client._secrets import Secrets
from prefect_nanobanana.client._sse import EventReader
from prefect_nanobanana.errors import UnknownOutcome
from prefect_nanobanana.models import Generation, Submission


class EventStream:
    """What is seen of one event stream.

    Args:
        secrets: Are taken out of what the events say.
        model: The model that was asked.
        hooks: Is told of the generation's id and its progress.
    """

    def __init__(self, secrets: Secrets, model: str, hooks: GenerationHooks) -> None:
        self._model = model
        self._hooks = hooks
        self._reader = EventReader(secrets)
        self._percent = -1
        self.generation_id: str | None = None
        self.last: dict[str, Any] | None = None
        self.seen = False

    def feed(self, chunk: bytes) -> None:
        """Take in what has arrived of the body; nothing at its end."""
        self.seen = True
        for event in self._reader.feed(chunk):
            if self.last is None:
                self._see(event)

    def ended(self, base_url: str) -> Generation:
        """Make a generation of the last event.

        Raises:
            UnknownOutcome: If the stream ended before the generation did.
        """
        self.feed(b"")
        if self.last is None:
            raise UnknownOutcome("the stream ended before the generation did")
        return read_last_event(
            self.last, base_url=base_url, model=self._model, generation_id=self.generation_id
        )

    def _see(self, event: dict[str, Any]) -> None:
        if self.generation_id is None:
            self.generation_id = event_id(event)
            if self.generation_id is not None:
                self._hooks.submitted(
                    Submission(generation_id=self.generation_id, model=self._model, mode="stream")
                )
        kind = text_of(event.get("type"))
        if kind and kind.lower() in ("complete", "error"):
            self.last = {**event, "type": kind.lower()}
            return
        percent = whole_number(event.get("progress"))
        # Heartbeats may fall back to 0, which is no progress.
        if percent is not None and self._percent < percent <= 100:
            self._percent = percent
            self._hooks.progress(percent, one_line(text_of(event.get("message")) or ""))
