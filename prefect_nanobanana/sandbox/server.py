"""The sandbox's HTTP server: real sockets, so that every fault is one that happens on networks.

The standard library's threading server is taken because a fault must reach the socket itself
(a reset, a cut body), which ASGI servers do not let an application do.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from prefect_nanobanana.sandbox.account import (
    Account,
    GenerationRow,
    OutOfCredits,
    TooManyOpen,
    refused_by_safety,
)
from prefect_nanobanana.sandbox.faults import Faults
from prefect_nanobanana.sandbox.pictures import FORMATS, draw

DEFAULT_KEY = "nb_sandbox"
URL_LIFETIME_SECONDS = 15 * 24 * 3600.0
UrlStyle = Literal["absolute", "relative", "protocol-relative", "data"]
_LIBRARY_AGENTS = re.compile(
    r"^$|python-httpx|python-requests|python-urllib|aiohttp|urllib3|curl/|wget/|go-http-client|boto",
    re.I,
)
_HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


class Sandbox:
    """A Nano Banana server on this machine. Use it as a context manager.

    Args:
        port: Where to listen on 127.0.0.1; 0 takes a free port.
        api_key: The key that it accepts.
        credits: The account's balance in credits.
        limit: How many requests the account may have open at once.
        latency: Seconds that a generation takes: a number, or the bounds of a range.
        async_capacity: How many async generations may run at once; more are answered with 503.
        faults: A probability per fault, by names of `FAULTS`.
        picture_pixels: The longer side of the pictures.
        image_format: `png`, `jpeg`, `webp`, or `mixed`.
        url_style: How the answers name the images.
        url_lifetime_seconds: After this an image's URL is dead.
        envelope: Whether answers come wrapped in `data`, as public clients have seen.
        seed: Makes chance repeatable.

    Example:
        ```python
        with Sandbox(credits=10, latency=0.1) as sandbox:
            client = NanoBananaClient(sandbox.api_key, sandbox.base_url)
            print(client.generate("a cat").image_urls, sandbox.account.credits)
        ```
    """

    def __init__(
        self,
        port: int = 0,
        *,
        api_key: str = DEFAULT_KEY,
        credits: int = 100,
        limit: int = 1,
        latency: float | tuple[float, float] = 0.0,
        async_capacity: int = 10,
        faults: Mapping[str, float] | None = None,
        picture_pixels: int = 512,
        image_format: str = "mixed",
        url_style: UrlStyle = "absolute",
        url_lifetime_seconds: float = URL_LIFETIME_SECONDS,
        envelope: bool = False,
        seed: int = 0,
    ) -> None:
        self.account = Account(credits, limit)
        self.faults = Faults(faults, seed)
        self.api_key = api_key
        self.url_style: UrlStyle = url_style
        self.envelope = envelope
        self.image_format = image_format
        self.picture_pixels = picture_pixels
        self.url_lifetime_seconds = url_lifetime_seconds
        self.async_capacity = async_capacity
        self.latency = latency if isinstance(latency, tuple) else (latency, latency)
        self.images: dict[str, bytes] = {}
        """Every image made, by its path: what a test compares hashes with."""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and headers (names in lower case) of every request."""
        self.stopping = threading.Event()
        self._random = random.Random(seed)
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.sandbox = self
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """What to give to a client as the API's address."""
        return f"{self.origin}/api/v1"

    def start(self) -> Sandbox:
        """Start answering, in a thread of its own."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop answering; generations under way are given up."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def serve_forever(self) -> None:
        """Answer in this thread until interrupted."""
        self._server.serve_forever(0.2)

    def books(self) -> dict[str, Any]:
        """What the account was charged for, as `GET /sandbox/books` shows it to other processes."""
        account = self.account
        return {
            "credits": account.credits,
            "charged": account.charged,
            "posts": account.posts,
            "refusals": account.refusals,
            "most_open": account.most_open,
            "images": {p: hashlib.sha256(b).hexdigest() for p, b in list(self.images.items())},
            "generations": [
                {"id": r.generation_id, "prompt": r.prompt, "status": r.status, "credits": r.credits}
                for r in account.rows
            ],
        }

    def finish(self, row: GenerationRow, fault: str | None) -> None:
        """Let the time pass that a generation takes, and make its pictures."""
        self.stopping.wait(self._random.uniform(*self.latency))
        if fault == "failed":
            row.status, row.message = "failed", "The model returned no image"
        elif fault == "warning" or refused_by_safety(row.prompt):
            row.status, row.message = "warning", "Content safety check failed"
        else:
            for number in range(1, row.quantity + 1):
                kind = self.image_format
                if kind == "mixed":
                    kind = list(FORMATS)[int(row.generation_id[-1], 16) % len(FORMATS)]
                path = f"/files/{row.generation_id}-{number}.{kind}"
                self.images[path] = draw(
                    row.prompt,
                    seed=f"{row.prompt}/{row.generation_id}/{number}",
                    aspect_ratio=row.aspect_ratio,
                    longest=self.picture_pixels,
                    references=row.references,
                    image_format=kind,
                )
                row.files.append(path)
            row.status = "completed"

    def url(self, path: str) -> str:
        """How the answers name an image."""
        match self.url_style:
            case "relative":
                return path
            case "protocol-relative":
                return f"//127.0.0.1:{self.port}{path}"
            case "data":
                kind = FORMATS[path.rpartition(".")[2]]
                return f"data:{kind};base64,{base64.b64encode(self.images[path]).decode()}"
            case _:
                return self.origin + path


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    sandbox: Sandbox

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up is no news


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    @property
    def sandbox(self) -> Sandbox:
        return self.server.sandbox

    def do_GET(self) -> None:
        self._note()
        address = urlsplit(self.path)
        if address.path.startswith("/files/"):
            self._image(address.path)
        elif address.path == "/sandbox/books":
            self._answer(200, self.sandbox.books())
        elif address.path == "/api/v1/models":
            self._answer(200, {"data": [m.as_json() for m in self.sandbox.account.models.values()]})
        elif not self._authorized():
            self._answer(401, {"error": "Invalid API key"})
        elif address.path == "/api/v1/credits":
            self._answer(200, {"data": {"credits": self.sandbox.account.credits}})
        elif address.path == "/api/v1/generate":
            self._status(parse_qs(address.query).get("id", [""])[0])
        else:
            self._answer(404, {"error": "Not found"})

    def do_POST(self) -> None:
        account = self.sandbox.account
        if urlsplit(self.path).path != "/api/v1/generate":
            self._answer(404, {"error": "Not found"})
            return
        account.arrived()
        fault = self.sandbox.faults.next()
        if fault == "reset_before":
            self._reset()
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self._note()
        if fault in _REFUSALS:
            self._refuse(fault)
            return
        if not self._authorized():
            self._answer(401, {"error": "Invalid API key"})
            return
        asked = self._asked(body)
        if isinstance(asked, str):
            self._answer(400, {"error": asked})
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
                self._answer(402, {"error": "Insufficient credits"})
                return
            if row.mode == "async":
                self._submitted(row, fault)
            elif row.mode == "stream":
                self._stream(row, fault)
            else:
                self.sandbox.finish(row, fault)
        finally:
            account.give_slot()
        if row.mode == "sync":
            self._generated(row, fault)

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
            "quantity": min(4, max(1, quantity)),
            "references": references,
            "aspect_ratio": str(fields.get("aspectRatio") or "default"),
        }

    def _generated(self, row: GenerationRow, fault: str | None) -> None:
        if fault == "reset_after":
            self._reset()
        elif fault == "stall":
            self.sandbox.stopping.wait()
            self._reset()
        elif fault in ("500", "502", "503_html", "504"):
            html = fault != "500"
            self._answer(int(fault[:3]), _HTML if html else {"error": "Internal server error"})
        elif fault in ("bad_json", "empty", "html"):
            broken = {"bad_json": b'{"success": true, "imageU', "empty": b"", "html": _HTML}
            self._answer(200, broken[fault])
        elif fault == "cut":
            self._answer(200, self._result(row), cut=True)
        else:
            result = self._result(row)
            if fault == "no_credits_told":
                del result["creditsUsed"], result["remainingCredits"]
            self._answer(200, result)

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
            self._answer(503, busy)
            return
        threading.Thread(target=self.sandbox.finish, args=(row, fault), daemon=True).start()
        self._answer(
            200,
            {
                "success": True,
                "async": True,
                "generationId": row.generation_id,
                "message": "Generation started",
                "creditsUsed": row.credits,
                "remainingCredits": self.sandbox.account.credits,
            },
        )

    def _stream(self, row: GenerationRow, fault: str | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self._event({"type": "status", "message": "Generation started", "progress": 5})
        self._event({"type": "status", "message": "Drawing", "progress": 50})
        self.sandbox.finish(row, fault)
        last = "complete" if row.status == "completed" else "error"
        message = row.message or "Done"
        self._event({"type": last, "message": message, "progress": 100, "data": self._result(row)})

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()

    def _status(self, generation_id: str) -> None:
        row = self.sandbox.account.find(generation_id)
        if row is None:
            self._answer(404, {"error": "Generation not found"})
            return
        data: dict[str, Any] = {
            "id": row.generation_id,
            "prompt": row.prompt,
            "outputImageUrls": [self.sandbox.url(path) for path in row.files] or None,
            "modelUsed": row.model,
            "processingStatus": "failed" if row.status == "warning" else row.status,
            "creditsUsed": row.credits,
            "createdAt": datetime.fromtimestamp(row.created_at, timezone.utc).isoformat(),
        }
        if row.message:
            data["errorMessage"] = row.message
        self._answer(200, {"data": data})

    def _image(self, path: str) -> None:
        content = self.sandbox.images.get(path)
        row = self.sandbox.account.find(path.removeprefix("/files/").partition("-")[0])
        if _LIBRARY_AGENTS.search(self.headers.get("user-agent", "")):
            self._answer(403, {"error": "Forbidden"})
        elif content is None or row is None:
            self._answer(404, {"error": "Not found"})
        elif time.time() - row.created_at > self.sandbox.url_lifetime_seconds:
            self._answer(404, {"error": "The image has expired"})
        else:
            self._answer(200, content, content_type=FORMATS[path.rpartition(".")[2]])

    def _refuse(self, fault: str) -> None:
        status = int(fault[:3])
        if status == 429:
            soon = datetime.now(timezone.utc) + timedelta(seconds=2)
            waits = {
                "429_seconds": {"Retry-After": "1"},
                "429_date": {"Retry-After": format_datetime(soon, usegmt=True)},
            }
            if fault == "429_html":
                self._answer(429, _HTML)
            else:
                self._limit_reached(waits.get(fault, {}))
        elif status == 503:
            self._answer(503, {"error": "Server busy", "type": "server_busy", "activeTasks": 10})
        else:
            self._answer(status, {"error": _REFUSALS[fault]})

    def _limit_reached(self, headers: dict[str, str]) -> None:
        limit, active = self.sandbox.account.limit, self.sandbox.account.open
        self._answer(
            429,
            {
                "error": "Too many concurrent requests",
                "type": "concurrency_limit",
                "limit": limit,
                "active": active,
            },
            headers={"X-RateLimit-Limit": str(limit), "X-RateLimit-Active": str(active), **headers},
        )

    def _answer(
        self,
        status: int,
        body: Any,
        *,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        cut: bool = False,
    ) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        if content_type is None:
            content_type = "text/html" if raw is _HTML else "application/json"
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(raw)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if cut else raw)
        if cut:
            self.close_connection = True

    def _reset(self) -> None:
        """Close the connection with a reset rather than an orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


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
