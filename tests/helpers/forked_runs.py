"""Runs in processes of their own that need not import Prefect anew, which takes seconds."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from prefect_nanobanana.batch._timing import TIMING, Timing
from prefect_nanobanana.client._timings import TIMINGS, Timings


def fork_runs(run: Callable[[dict[str, Any]], None], *, end: Callable[[int], Any]) -> None:
    """Fork for each line of settings that is read; print the process id, and then how it ended.

    Args:
        run: What a process does with its settings.
        end: How it ends then: `sys.exit`, or `os._exit`, which skips all that an interpreter does.
    """
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
            end(0)
