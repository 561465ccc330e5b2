"""A server of files that costs little: the machines that images come from are not the one that copies.

    python copy_source.py FOLDER

It prints its address. The kernel sends the files (sendfile), while Python's lock is free.
"""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

from prefect_nanobanana.sandbox.wire import WireHandler


class Handler(WireHandler):
    """Answers with a file."""

    def do_GET(self) -> None:  # noqa: N802  # the standard library's name
        """Send it, on a connection that stays open."""
        path = Path(sys.argv[1], self.path.lstrip("/"))
        if not path.is_file():
            self.answer(404, {"error": "Not found"})
            return
        with path.open("rb") as file:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(file.seek(0, 2)))
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
