"""Runs of the main job in processes of their own, to be stopped by signals: see test_stopping.py.

Importing Prefect takes seconds, so this imports it once and forks: for each line of settings that it
reads, it prints the process id of a run, and then how that ended.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect_aws import S3Bucket

from prefect_nanobanana import NanoBananaGenerator
from prefect_nanobanana.batch._timing import TIMING, Timing
from prefect_nanobanana.client._timings import TIMINGS, Timings
from prefect_nanobanana.flows import generate_images


@flow(name="parent")
def parent(**settings: Any) -> Any:
    """A flow of somebody's own, around the main job."""
    return generate_images(**settings)


def run(settings: dict[str, Any]) -> None:
    """Run a batch, and write what became of it into a file."""
    os.environ.update(settings.pop("env"))
    result = Path(settings.pop("result"))
    call = parent if settings.pop("inside") else generate_images
    report = call(
        **settings
        | {
            "generator": NanoBananaGenerator.model_validate(settings["generator"]),
            "bucket": S3Bucket.model_validate(settings["bucket"]),
            "fail_on": "never",
        }
    )
    result.write_text(report.model_dump_json(exclude={"outcomes"}))


if __name__ == "__main__":
    polls = Timings(first_poll=0.1, poll_every=0.1, close_poll=0.1)
    for line in sys.stdin:
        child = os.fork()
        if child:
            print(child, flush=True)
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        else:
            quiet = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
            # The run before is dead: its request is not waited for.
            with quiet, TIMINGS.use(polls), TIMING.use(Timing(await_other_for=0.0)):
                run(json.loads(line))
            sys.exit(0)  # with all that an interpreter does at its end
