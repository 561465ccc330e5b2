"""Runs of the main job in processes of their own, to be killed: see test_killed.py.

Importing Prefect takes seconds, so this imports it once and forks: for each line of settings that it
reads, it prints the process id of a run, and then how that ended.
"""

from __future__ import annotations

import json
import os
import sys

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect_aws import S3Bucket

from prefect_nanobanana import NanoBananaGenerator
from prefect_nanobanana.batch._timing import TIMING, Timing
from prefect_nanobanana.client._timings import TIMINGS, Timings
from prefect_nanobanana.flows import generate_images

if __name__ == "__main__":
    polls = Timings(first_poll=0.1, poll_every=0.1, close_poll=0.1)
    for line in sys.stdin:
        child = os.fork()
        if child:
            print(child, flush=True)
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        else:
            settings = json.loads(line)
            quiet = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
            # The run before is dead: its request is not waited for.
            with quiet, TIMINGS.use(polls), TIMING.use(Timing(await_other_for=0.0)):
                generate_images(
                    prompts=settings["prompts"],
                    generator=NanoBananaGenerator.model_validate(settings["generator"]),
                    bucket=S3Bucket.model_validate(settings["bucket"]),
                    batch="b",
                    fail_on="never",
                )
            os._exit(0)
