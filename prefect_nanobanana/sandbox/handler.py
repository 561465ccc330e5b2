"""The API's contract, request by request."""

from __future__ import annotations

import json
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from prefect_nanobanana.sandbox.account import Account, GenerationRow, OutOfCredits, TooManyOpen
from prefect_nanobanana.sandbox.bodies import read_request, result_body, status_body, submitted_body
from prefect_nanobanana.sandbox.faults import Faults
from prefect_nanobanana.sandbox.pictures import FORMATS
from prefect_nanobanana.sandbox.references import unreadable
from prefect_nanobanana.sandbox.wire import HTML, WireHandler

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


class Api(Protocol):
    """What the handler needs of the sandbox that it answers for."""

    account: Account
    faults: Faults
    poll_faults: Faults
    api_key: str
    async_capacity: int
    envelope: bool
    stream_ids: bool
    heartbeat_seconds: float
    url_lifetime_seconds: float
    images: dict[str, bytes]
    requests: list[tuple[str, str, dict[str, str]]]
    stopping: threading.Event

    def books(self) -> dict[str, Any]:
        """What the account was charged for."""

    def finish(self, row: GenerationRow, fault: str | None) -> None:
        """Let the time pass that a generation takes, and make its pictures."""

    def url(self, path: str) -> str:
        """How the answers name an image."""


class SandboxServer(ThreadingHTTPServer):
    """One thread per connection, as a generation takes its time.

    Args:
        port: Where to listen on 127.0.0.1; 0 takes a free port.
        api: Whose requests these are.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, api: Api) -> None:
        self.api = api
        super().__init__(("127.0.0.1", port), ApiHandler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up is no news


class ApiHandler(WireHandler):
    """Answers one connection's requests."""

    server: SandboxServer

    @property
    def api(self) -> Api:
        return self.server.api

    def do_GET(self) -> None:
        self._note()
        address = urlsplit(self.path)
        if address.path.startswith("/files/"):
            self._image(address.path)
        elif address.path == "/sandbox/books":
            self.answer(200, self.api.books())
        elif address.path == "/api/v1/models":
            self.answer(200, {"data": [m.as_json() for m in self.api.account.models.values()]})
        elif not self._authorized():
            self.answer(401, {"error": "Invalid API key"})
        elif address.path == "/api/v1/credits":
            self.answer(200, {"data": {"credits": self.api.account.credits}})
        elif address.path == "/api/v1/generate":
            self._status(parse_qs(address.query).get("id", [""])[0])
        else:
            self.answer(404, {"error": "Not found"})

    def do_POST(self) -> None:
        account = self.api.account
        if urlsplit(self.path).path != "/api/v1/generate":
            self.answer(404, {"error": "Not found"})
            return
        account.arrived()
        fault = self.api.faults.next()
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
        asked = read_request(body, account.models)
        if isinstance(asked, str):
            self.answer(400, {"error": asked})
            return
        if (url := unreadable(asked["references"])) is not None:
            self.answer(400, {"error": f"The reference image cannot be loaded: {url}"})
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
                self.api.finish(row, fault)
        finally:
            account.give_slot()
        if row.mode == "sync":
            self._deliver(self._result(row), fault)
        elif row.mode == "async":
            self._submitted(row, fault)

    def _note(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.api.requests.append((self.command, self.path, headers))

    def _authorized(self) -> bool:
        return self.headers.get("authorization", "") == f"Bearer {self.api.api_key}"

    def _deliver(self, result: dict[str, Any], fault: str | None) -> None:
        """Answer what is charged already, well or badly."""
        if fault == "reset_after":
            self.reset()
        elif fault == "stall":
            self.wait_until_closed(self.api.stopping)
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
        urls = [self.api.url(path) for path in row.files]
        return result_body(row, urls, self.api.account.credits, self.api.envelope)

    def _submitted(self, row: GenerationRow, fault: str | None) -> None:
        running = [r for r in self.api.account.rows if r.mode == "async" and r.status == "processing"]
        if len(running) > self.api.async_capacity:
            self.api.account.refund(row)
            busy = {"error": "Server busy", "type": "server_busy", "activeTasks": len(running) - 1}
            self.answer(503, busy)
            return
        threading.Thread(target=self.api.finish, args=(row, fault), daemon=True).start()
        self._deliver(submitted_body(row, self.api.account.credits), fault)

    def _stream(self, row: GenerationRow, fault: str | None) -> None:
        """Answer with events; `fault` breaks off after the first, or garbles what comes between."""
        if fault in ("500", "502", "503_html", "504"):
            self.api.finish(row, fault)
            self._deliver({}, fault)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        started: dict[str, Any] = {"type": "status", "message": "Generation started", "progress": 5}
        if self.api.stream_ids:
            started["data"] = {"generationId": row.generation_id}
        self._event(started)
        finished = threading.Thread(target=self.api.finish, args=(row, fault), daemon=True)
        finished.start()
        while finished.is_alive():
            finished.join(self.api.heartbeat_seconds)
            if finished.is_alive():
                self._event({"type": "status", "message": "Processing", "progress": 0})
        if fault in ("reset_after", "stall", "cut"):
            if fault == "stall":
                self.wait_until_closed(self.api.stopping)
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
        fault = self.api.poll_faults.next()
        if fault == "reset_before":
            self.reset()
            return
        if fault in _REFUSALS:
            self._refuse(fault)
            return
        row = self.api.account.find(generation_id)
        if row is None:
            self.answer(404, {"error": "Generation not found"})
            return
        self._deliver(status_body(row, self.api.url), fault)

    def _image(self, path: str) -> None:
        content = self.api.images.get(path)
        row = self.api.account.find(path.removeprefix("/files/").partition("-")[0])
        if _LIBRARY_AGENTS.search(self.headers.get("user-agent", "")):
            self.answer(403, {"error": "Forbidden"})
        elif content is None or row is None:
            self.answer(404, {"error": "Not found"})
        elif time.time() - row.created_at > self.api.url_lifetime_seconds:
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
        limit, active = self.api.account.limit, self.api.account.open
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
