"""An image API that has each image ready, so that a whole flow is measured and not the making of images.

    python copy_api.py WHERE_THE_PICTURES_ARE

It prints its address; below it is an API for each folder of pictures, as /1.5/generate. A prompt is the
name of a picture, and any key will do.
"""

from __future__ import annotations

import json
import sys
from http.server import ThreadingHTTPServer

from prefect_nanobanana.sandbox.wire import WireHandler

CREDITS = 1_000_000
MODEL = {
    "name": "nano-banana",
    "displayName": "Nano Banana",
    "creditsCost": 1,
    "supportsImageInput": True,
    "supportsAspectRatio": True,
    "requiresPro": False,
}


class Handler(WireHandler):
    """Answers what a run asks for."""

    def do_GET(self) -> None:  # noqa: N802  # the standard library's name
        """Tell the models, or the credits, which never become less."""
        models = self.path.endswith("/models")
        self.answer(200, {"data": [MODEL] if models else {"credits": CREDITS}})

    def do_POST(self) -> None:  # noqa: N802
        """Tell where the picture is that the prompt names."""
        name = json.loads(self.rfile.read(int(self.headers["content-length"])))["prompt"]
        url = f"{sys.argv[1]}{self.path.removesuffix('/generate')}/{name}.png"
        result = {"success": True, "generationId": name, "imageUrls": [url]}
        self.answer(200, {**result, "creditsUsed": 0, "remainingCredits": CREDITS})


def main() -> None:
    """Serve until the process is ended."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
