"""A server of files that costs little: the machines that images come from are not the one that copies.

    python copy_source.py FOLDER

It prints its address. The kernel sends the files (sendfile), while Python's lock is free. Each picture
comes with its MD5 as its tag, as from an object store; below /untagged it does not.
"""

from __future__ import annotations

import hashlib
import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

from prefect_nanobanana.sandbox.wire import WireHandler

UNTAGGED = "/untagged"
FOLDER = Path(sys.argv[1])


TAGS = {path: f'"{hashlib.md5(path.read_bytes()).hexdigest()}"' for path in FOLDER.rglob("*.png")}


class Handler(WireHandler):
    """Answers with a file."""

    def do_GET(self) -> None:  # noqa: N802  # the standard library's name
        """Send it, on a connection that stays open."""
        path = FOLDER / self.path.removeprefix(UNTAGGED).lstrip("/")
        if path not in TAGS:
            self.answer(404, {"error": "Not found"})
            return
        with path.open("rb") as file:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(file.seek(0, 2)))
            if not self.path.startswith(UNTAGGED):
                self.send_header("ETag", TAGS[path])
            self.end_headers()
            file.seek(0)
            self.connection.sendfile(file)


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as there are."""

    request_queue_size = 128


def main() -> None:
    """Serve until the process is ended."""
    with Server(("127.0.0.1", 0), Handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
