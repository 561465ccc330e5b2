"""`nanobanana ui`: everything on this machine, and where to click."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from prefect_nanobanana.cli._stack import Stack, stack


def run(home: Path, port: int, blocks: bool, credits: int, as_json: bool) -> int:
    """Run until Ctrl-C; what Prefect's server knows is kept for the next time.

    Returns:
        0, or 1 if something did not start.
    """

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    def stop(*_: object) -> None:
        # Ending everything takes seconds; impatience must not leave half of it behind.
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, signal.SIG_IGN)
        raise KeyboardInterrupt

    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, stop)
    try:
        with stack(home, port, blocks, credits=credits, say=say) as running:
            if as_json:
                print(json.dumps(running.addresses()), flush=True)
            else:
                say(where_to_click(running, blocks))
            while True:
                signal.pause()
    except KeyboardInterrupt:
        say("Everything has ended.")
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def where_to_click(running: Stack, blocks: bool) -> str:
    """The addresses, as a person reads them."""
    told = running.addresses()
    account, s3 = told["nano_banana"], told["s3"]
    forms = "\n".join(f"  {name:14}{url}" for name, url in sorted(told["run_forms"].items()))
    saved = "They are saved as blocks already." if blocks else "No block is saved yet."
    return f"""
Prefect's UI:     {told["ui"]}
It asks for:      {told["auth"]}

Run a deployment:
{forms}

For blocks of your own ({told["ui"]}/v2/blocks/catalog). {saved}
  Nano Banana     key {account["api_key"]}, base URL {account["base_url"]}
  S3 (MinIO)      {s3["endpoint_url"]}, user {s3["access_key"]}, password {s3["secret_key"]}
  S3 bucket       {s3["bucket"]}, whose files are in {s3["folder"]}

Logs are in {told["home"]}. Ctrl-C ends everything.
"""
