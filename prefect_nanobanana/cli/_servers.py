"""`nanobanana sandbox`, `demo` and `ui`: servers on this machine alone, no account needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_nanobanana.cli._outcome import Json


def sandbox(*words: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]) -> int:
    """Start a local server that keeps the contract of the Nano Banana API.

    It prints its address and its key. Its options, for latency, credits and some twenty faults, are said
    by: python -m prefect_nanobanana.sandbox --help

    Args:
        words: The options of that command.
    """
    from prefect_nanobanana.sandbox.__main__ import main

    return main(list(words))


def demo(*, home: Path = Path("nanobanana-demo")) -> int:
    """Run the main job against a local API server and a local S3 server, and show the result.

    Exit code 0 means that every picture in the bucket is byte for byte what the API served, and that the
    report's credits are what it charged.

    Args:
        home: Where everything is kept; the bucket is the folder s3/pictures in it.
    """
    from prefect_nanobanana.cli._demo import environment

    # Prefect's settings are read when it is imported, which it is by now.
    command = [sys.executable, "-m", "prefect_nanobanana.cli._demo"]
    os.execve(sys.executable, command, environment(home))


def ui(
    *,
    port: int = 4200,
    home: Path = Path("nanobanana-ui"),
    no_blocks: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    credits: int = 200,
    as_json: Json = False,
) -> int:
    """Start Prefect's UI with everything deployed, against local servers. Ctrl-C ends it.

    Args:
        port: Prefect's; the next two are those of the Nano Banana and the S3 server. 0 takes free ones.
        home: Where everything is kept.
        no_blocks: Save no blocks: make them in the UI.
        credits: The balance of the account.
        as_json: Print one line of JSON once all is ready.
    """
    from prefect_nanobanana.cli._ui import run

    return run(home, port, not no_blocks, credits, as_json)
