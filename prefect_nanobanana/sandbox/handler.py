"""The API's contract, request by request."""

from __future__ import annotations

import json
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from prefect_nanobanana.sandbox.account import GenerationRow, OutOfCredits, TooManyOpen
from prefect_nanobanana.sandbox.pictures import FORMATS
from prefect_nanobanana.sandbox.wire import HTML, WireHandler

if TYPE_CHECKING:
    from prefect_nanobanana.sandbox.server import Sandbox

HEARTBEAT_SECONDS = 15.0
_LIBRARY_AGENTS = re.compile(
    r"^$|python-httpx|python-requests|python-urllib|aiohttp|urllib3|curl/|wget/|go-http-client|boto",
    re.I,
)
_REFUSALS = {
    "400": "Invalid parameters",
    "401": "Invalid API key",
    "402": "Insufficient credits",
    "403": "API access is not enabled for this account",
    "429": "",
    "429_seconds": "",
    "429_date": "",
    "429_html": "",
    "503": "",
}


class SandboxServer(ThreadingHTTPServer):
    """One thread per connection, as a generation takes its time."""

    daemon_threads = True
    request_queue_size = 256
    sandbox: Sandbox

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up is no news


class ApiHandler(WireHandler):
    """Answers one connection's requests."""

    server: SandboxServer

    @property
    def sandbox(self) -> Sandbox:
        return self.server.sandbox

    def do_GET(self) -> None:
        self._note()
        address = urlsplit(self.path)
        if address.path.startswith("/files/"):
            self._image(address.path)
        elif address.path == "/sandbox/books":
            self.answer(200, self.sandbox.books())
        elif address.path == "/api/v1/models":
            self.answer(200, {"data": [m.as_json() for m in self.sandbox.account.models.values()]})
        elif not self._authorized():
            self.answer(401, {"error": "Invalid API key"})
        elif address.path == "/api/v1/credits":
            self.answer(200, {"data": {"credits": self.sandbox.account.credits}})
        elif address.path == "/api/v1/generate":
            self._status(parse_qs(address.query).get("id", [""])[0])
        else:
            self.answer(404, {"error": "Not found"})

    def do_POST(self) -> None:
        account = self.sandbox.account
        if urlsplit(self.path).path != "/api/v1/generate":
            self.answer(404, {"error": "Not found"})
            return
        account.arrived()
        fault = self.sandbox.faults.next()
        if fault == "reset_before":
            self.reset()
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self._note()
        if fault in _REFUSALS:
            self._refuse(fault)
            return
        if not self._authorized():
            self.answer(401, {"error": "Invalid API key"})
            return
        asked = self._asked(body)
        if isinstance(asked, str):
            self.answer(400, {"error": asked})
            return
        try:
            account.take_slot()
        except TooManyOpen:
            self._limit_reached({"Retry-After": "1"})
            return
        try:
            try:
                row = account.charge(**asked)
            except OutOfCredits:
                self.answer(402, {"error": "Insufficient credits"})
                return
            if row.mode == "stream":
                self._stream(row, fault)
            elif row.mode == "sync":
                self.sandbox.finish(row, fault)
        finally:
            account.give_slot()
        if row.mode == "sync":
            self._deliver(self._result(row), fault)
        elif row.mode == "async":
            self._submitted(row, fault)

    def _note(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.sandbox.requests.append((self.command, self.path, headers))

    def _authorized(self) -> bool:
        return self.headers.get("authorization", "") == f"Bearer {self.sandbox.api_key}"

    def _asked(self, body: bytes) -> dict[str, Any] | str:
        """What was asked, or what is wrong with it."""
        try:
            fields = json.loads(body)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            return "The body must be a JSON object"
        prompt = fields.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            return "prompt is required"
        model = self.sandbox.account.models.get(fields.get("selectedModel") or "nano-banana")
        if model is None:
            return f"Unknown model: {fields['selectedModel']}"
        references = fields.get("referenceImageUrls") or []
        if not isinstance(references, list) or not all(isinstance(r, str) for r in references):
            return "referenceImageUrls must be a list of strings"
        if references and not model.supports_image_input:
            return f"{model.name} does not take reference images"
        quantity = fields.get("quantity", 1)
        if isinstance(quantity, bool) or not isinstance(quantity, int):
            return "quantity must be a number"
        mode = fields.get("mode", "sync")
        if mode not in ("sync", "stream", "async"):
            return f"Unknown mode: {mode}"
        return {
            "prompt": prompt,
            "model": model.name,
            "mode": mode,
            "quantity": 1 if mode == "stream" else min(4, max(1, quantity)),
            "references": references,
            "aspect_ratio": str(fields.get("aspectRatio") or "default"),
        }

    def _deliver(self, result: dict[str, Any], fault: str | None) -> None:
        """Answer what is charged already, well or badly."""
        if fault == "reset_after":
            self.reset()
        elif fault == "stall":
            self.wait_until_closed(self.sandbox.stopping)
            self.reset()
        elif fault in ("500", "502", "503_html", "504"):
            html = fault != "500"
            self.answer(int(fault[:3]), HTML if html else {"error": "Internal server error"})
        elif fault in ("bad_json", "empty", "html"):
            broken = {"bad_json": b'{"success": true, "imageU', "empty": b"", "html": HTML}
            self.answer(200, broken[fault])
        elif fault == "no_credits_told":
            self.answer(200, {k: v for k, v in result.items() if "redits" not in k})
        else:
            self.answer(200, result, cut=fault == "cut")

    def _result(self, row: GenerationRow) -> dict[str, Any]:
        urls = [self.sandbox.url(path) for path in row.files]
        credits = {"creditsUsed": row.credits, "remainingCredits": self.sandbox.account.credits}
        if self.sandbox.envelope:
            data: dict[str, Any] = {
                "id": row.generation_id,
                "outputImageUrls": urls or None,
                "modelUsed": row.model,
            }
            data["processingStatus"] = "completed" if row.status == "completed" else "failed"
            if row.message:
                data["errorMessage"] = row.message
            if row.status == "warning":
                data["warning"] = True
            return {"data": {**data, **credits}}
        if row.status == "completed":
            return {"success": True, "generationId": row.generation_id, "imageUrls": urls, **credits}
        failure: dict[str, Any] = {"success": False, "generationId": row.generation_id, **credits}
        if row.status == "warning":
            return {**failure, "warning": True, "message": row.message}
        return {**failure, "error": row.message}

    def _submitted(self, row: GenerationRow, fault: str | None) -> None:
        running = [
            r for r in self.sandbox.account.rows if r.mode == "async" and r.status == "processing"
        ]
        if len(running) > self.sandbox.async_capacity:
            self.sandbox.account.refund(row)
            busy = {"error": "Server busy", "type": "server_busy", "activeTasks": len(running) - 1}
            self.answer(503, busy)
            return
        threading.Thread(target=self.sandbox.finish, args=(row, fault), daemon=True).start()
        result = {
            "success": True,
            "async": True,
            "generationId": row.generation_id,
            "message": "Generation started",
            "creditsUsed": row.credits,
            "remainingCredits": self.sandbox.account.credits,
        }
        self._deliver(result, fault)

    def _stream(self, row: GenerationRow, fault: str | None) -> None:
        """Answer with events; `fault` breaks off after the first, or garbles what comes between."""
        if fault in ("500", "502", "503_html", "504"):
            self.sandbox.finish(row, fault)
            self._deliver({}, fault)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        started: dict[str, Any] = {"type": "status", "message": "Generation started", "progress": 5}
        if self.sandbox.stream_ids:
            started["data"] = {"generationId": row.generation_id}
        self._event(started)
        finished = threading.Thread(target=self.sandbox.finish, args=(row, fault), daemon=True)
        finished.start()
        while finished.is_alive():
            finished.join(HEARTBEAT_SECONDS)
            if finished.is_alive():
                self._event({"type": "status", "message": "Processing", "progress": 0})
        if fault in ("reset_after", "stall", "cut"):
            if fault == "stall":
                self.wait_until_closed(self.sandbox.stopping)
            if fault != "cut":
                self.reset()
            return
        if fault in ("bad_json", "html", "empty"):
            self.wfile.write(b'data: {"type": "comp\n\n' if fault == "bad_json" else b": nothing\n\n")
            return
        last = "complete" if row.status == "completed" else "error"
        message = row.message or "Done"
        self._event({"type": last, "message": message, "progress": 100, "data": self._result(row)})

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()

    def _status(self, generation_id: str) -> None:
        fault = self.sandbox.poll_faults.next()
        if fault == "reset_before":
            self.reset()
            return
        if fault in _REFUSALS:
            self._refuse(fault)
            return
        row = self.sandbox.account.find(generation_id)
        if row is None:
            self.answer(404, {"error": "Generation not found"})
            return
        data: dict[str, Any] = {
            "id": row.generation_id,
            "prompt": row.prompt,
            "outputImageUrls": [self.sandbox.url(path) for path in row.files] or None,
            "modelUsed": row.model,
            "processingStatus": "failed" if row.status == "warning" else row.status,
            "creditsUsed": row.credits,
            "createdAt": datetime.fromtimestamp(row.created_at, UTC).isoformat(),
        }
        if row.message:
            data["errorMessage"] = row.message
        self._deliver({"data": data}, fault)

    def _image(self, path: str) -> None:
        content = self.sandbox.images.get(path)
        row = self.sandbox.account.find(path.removeprefix("/files/").partition("-")[0])
        if _LIBRARY_AGENTS.search(self.headers.get("user-agent", "")):
            self.answer(403, {"error": "Forbidden"})
        elif content is None or row is None:
            self.answer(404, {"error": "Not found"})
        elif time.time() - row.created_at > self.sandbox.url_lifetime_seconds:
            self.answer(404, {"error": "The image has expired"})
        else:
            self.answer(200, content, content_type=FORMATS[path.rpartition(".")[2]])

    def _refuse(self, fault: str) -> None:
        status = int(fault[:3])
        if status == 429:
            soon = datetime.now(UTC) + timedelta(seconds=2)
            waits = {
                "429_seconds": {"Retry-After": "1"},
                "429_date": {"Retry-After": format_datetime(soon, usegmt=True)},
            }
            if fault == "429_html":
                self.answer(429, HTML)
            else:
                self._limit_reached(waits.get(fault, {}))
        elif status == 503:
            self.answer(503, {"error": "Server busy", "type": "server_busy", "activeTasks": 10})
        else:
            self.answer(status, {"error": _REFUSALS[fault]})

    def _limit_reached(self, headers: dict[str, str]) -> None:
        limit, active = self.sandbox.account.limit, self.sandbox.account.open
        self.answer(
            429,
            {
                "error": "Too many concurrent requests",
                "type": "concurrency_limit",
                "limit": limit,
                "active": active,
            },
            headers={"X-RateLimit-Limit": str(limit), "X-RateLimit-Active": str(active), **headers},
        )
