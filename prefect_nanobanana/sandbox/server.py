"""The sandbox's HTTP server: real sockets, so that every fault is one that happens on networks.

The standard library's threading server is taken because a fault must reach the socket itself
(a reset, a cut body), which ASGI servers do not let an application do.
"""

from __future__ import annotations

import base64
import hashlib
import random
import threading
from collections.abc import Mapping
from typing import Any, Literal

from prefect_nanobanana.sandbox.account import Account, GenerationRow, refused_by_safety
from prefect_nanobanana.sandbox.faults import Faults
from prefect_nanobanana.sandbox.handler import SandboxServer
from prefect_nanobanana.sandbox.pictures import FORMATS, draw

DEFAULT_KEY = "nb_sandbox"
URL_LIFETIME_SECONDS = 15 * 24 * 3600.0
UrlStyle = Literal["absolute", "relative", "protocol-relative", "data"]


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
        stream_ids: Whether a stream's first event names the generation, which nobody has promised.
        heartbeat_seconds: How often a stream says that it is still at work.
        poll_faults: As `faults`, for `GET /generate?id=`.
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
        stream_ids: bool = False,
        heartbeat_seconds: float = 15.0,
        poll_faults: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.account = Account(credits, limit)
        self.faults = Faults(faults, seed)
        self.poll_faults = Faults(poll_faults, seed)
        self.stream_ids = stream_ids
        self.heartbeat_seconds = heartbeat_seconds
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
        self.running = threading.Event()
        """Cleared, generations under way wait until it is set again: for tests that must not race."""
        self.running.set()
        self._random = random.Random(seed)
        self._server = SandboxServer(port, self)
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
        self.running.set()
        self._server.shutdown()
        self._server.server_close()

    def go_away(self) -> None:
        """Refuse connections until `come_back`; what is open goes on."""
        self._server.shutdown()
        self._server.server_close()

    def come_back(self) -> None:
        """Answer again, at the same port."""
        self._server = SandboxServer(self.port, self)
        self.start()

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
            "busy_seconds": account.busy_seconds,
            "open_seconds": account.open_seconds,
            "busy_until_last_opened": account.busy_until_last_opened,
            "first_opened": account.first_opened,
            "last_opened": account.last_opened,
            "last_closed": account.last_closed,
            "images": {p: hashlib.sha256(b).hexdigest() for p, b in list(self.images.items())},
            "generations": [
                {"id": r.generation_id, "prompt": r.prompt, "status": r.status, "credits": r.credits}
                for r in account.rows
            ],
        }

    def finish(self, row: GenerationRow, fault: str | None) -> None:
        """Let the time pass that a generation takes, and make its pictures."""
        self.stopping.wait(self._random.uniform(*self.latency))
        self.running.wait()
        if fault == "failed":
            row.end("failed", "The model returned no image")
        elif fault == "warning" or refused_by_safety(row.prompt):
            row.end("warning", "Content safety check failed")
        else:
            files = []
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
                files.append(path)
            row.end("completed", files=files)

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
