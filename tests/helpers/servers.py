"""Real servers that the tests talk to, where the sandbox is too well-behaved."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import trustme
from prefect_aws.client_parameters import AwsClientParameters


@dataclass
class Reply:
    """What a scripted server answers."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    """What to claim in Content-Length; None for the truth, -1 for no such header."""
    stall_seconds: float = 0
    reset: bool = False
    drip_seconds: float = 0
    drip_headers: bool = False
    """Whether headers without end arrive first, a few now and then."""
    pieces: Iterable[bytes] = ()
    """What follows the body."""


@dataclass
class Seen:
    """A request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Scripted:
    """A server that answers as a function says. Use it as a context manager.

    Args:
        answer: Says what.
        address: A loopback address to listen at.
        tls: Speak TLS with this certificate.
    """

    def __init__(
        self,
        answer: Callable[[Seen], Reply],
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self._scheme = "https" if tls else "http"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {k.lower(): v for k, v in self.headers.items()}
                seen = Seen(self.command, self.path, headers, body)
                outer.seen.append(seen)
                outer.send(self, answer(seen))

            do_GET = do_POST = do_PUT = do_PATCH = do_HEAD = do_DELETE = handle_any

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def get_request(self) -> Any:
                connection, client = super().get_request()
                outer.connections += 1
                if tls:  # the handshake comes with the first read, in the connection's own thread
                    connection = tls.wrap_socket(
                        connection, server_side=True, do_handshake_on_connect=False
                    )
                return connection, client

            def handle_error(self, *args: Any) -> None:
                pass

        self._server = Server((address, 0), Handler)

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.stall_seconds:
            time.sleep(reply.stall_seconds)
        if reply.reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        handler.send_response_only(reply.status)
        while reply.drip_headers:
            handler.send_header("X-Drip", "drop")
            handler.flush_headers()
            time.sleep(reply.drip_seconds)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        if reply.length != -1 and "Content-Length" not in reply.headers:
            handler.send_header("Content-Length", str(reply.length or len(reply.body)))
        if reply.length is not None:
            handler.send_header("Connection", "close")
            handler.close_connection = True
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if reply.drip_seconds:
            for byte in reply.body:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                time.sleep(reply.drip_seconds)
        else:
            handler.wfile.write(reply.body)
        for piece in reply.pieces:
            handler.wfile.write(piece)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self._scheme}://{self._server.server_address[0]!s}:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class FaultyS3(Scripted):
    """Stands before a real S3 server and answers some requests itself, as `fault` says.

    It passes the Host header on unchanged, so signatures still hold.

    Args:
        endpoint_url: Where that server is.
        tls: Speak TLS with this certificate.
    """

    def __init__(self, endpoint_url: str, tls: ssl.SSLContext | None = None) -> None:
        self.fault: Callable[[Seen], Reply | None] = lambda _: None
        self.after: Callable[[], None] = lambda: None
        """Called when the store has acted on a request, before its answer is passed on."""
        self.lose_answer: Callable[[Seen], bool] = lambda _: False
        """Whether the store's answer is lost on the way back."""
        self.tamper: Callable[[Seen], bytes] = lambda seen: seen.body
        """What reaches the store of a request's body."""
        self.alter: Callable[[Seen, dict[str, str]], None] = lambda *_: None
        """Changes the headers of the store's answer."""
        host = urlsplit(endpoint_url).netloc

        def answer(seen: Seen) -> Reply:
            reply = self.fault(seen)
            if reply is not None:
                return reply
            if "transfer-encoding" in seen.headers:
                return s3_error(411, "MissingContentLength")  # as Ceph and rclone say
            connection = http.client.HTTPConnection(host, timeout=30)
            connection.request(seen.method, seen.path, self.tamper(seen), seen.headers)
            response = connection.getresponse()
            content = response.read()
            dropped = ("transfer-encoding", "connection")
            headers = {k: v for k, v in response.getheaders() if k.lower() not in dropped}
            connection.close()
            self.after()
            self.alter(seen, headers)
            if self.lose_answer(seen):
                return Reply(reset=True)
            return Reply(content, response.status, headers)

        super().__init__(answer, tls=tls)


@contextmanager
def s3_over_tls(endpoint_url: str, home: Path) -> Iterator[tuple[FaultyS3, AwsClientParameters]]:
    """Speak TLS before an S3 server, and say how a credentials block reaches it."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(home / "authority.pem"))
    with FaultyS3(endpoint_url, context) as front:
        yield front, AwsClientParameters(endpoint_url=front.url, verify=home / "authority.pem")


def s3_error(status: int, code: str) -> Reply:
    """An error as S3 words it."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return Reply(body.encode(), status, {"Content-Type": "application/xml"})
