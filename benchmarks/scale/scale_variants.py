"""What bench_scale.py measures, each in a process of its own.

It says that it is ready, waits to be told to go, and then prints what the work took, in this process and
in those that it has started: seconds of wall and of CPU, kilobytes of memory before and at the peak.
"""

# No `from __future__ import annotations` here: Prefect reads the annotations of flows and tasks.

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench_servers import Work, cpu_seconds
from clusters import dask, ray
from prefect import flow, task, unmapped
from prefect.task_runners import ThreadPoolTaskRunner
from slot_variants import bare, copy, generate_once, ours, s3_client

TASK_RUNS = 2
"""Of each prompt: one that asks, and one that copies."""


@dataclass(frozen=True)
class ScaleWork(Work):
    """What one process is to do; its prompts are so many that they are not told, but counted.

    Attributes:
        count: How many prompts there are.
        engine: What runs the tasks of ours: "" for threads.
    """

    count: int = 0
    engine: str = ""


def main() -> None:
    """Do the work that is given as JSON."""
    told = ScaleWork(**json.loads(sys.argv[1]))
    work = replace(told, prompts=[f"prompt {n}" for n in range(told.count)])
    with _engine(work.engine) as runner:
        do: Callable[[], Any] = {
            "ours": lambda: ours(work, runner),
            "empty": lambda: _empty(nothing_for=work),
            "map": lambda: _by_hand(work),
            "bare": lambda: asyncio.run(bare(work)),
        }[work.variant]
        if work.variant != "bare":
            # What is imported and made at the first use counts for no prompt.
            nothing_flow.with_options(task_runner=runner)(2)
            s3_client(work.s3_url)
        print("ready", flush=True)
        sys.stdin.readline()
        began, (cpu, before, _) = time.monotonic(), _used()
        do()
        ended, (cpu_after, _, peak) = time.monotonic(), _used()
    found = {"began": began, "ended": ended, "cpu": cpu_after - cpu, "kb": max(0, peak - before)}
    print(json.dumps(found), flush=True)


@contextmanager
def _engine(name: str) -> Iterator[Any]:
    """A task runner; that of threads is Prefect's default."""
    with ExitStack() as stack:
        yield stack.enter_context({"dask": dask, "ray": ray}[name]()) if name else ThreadPoolTaskRunner()


def _used() -> tuple[float, int, int]:
    """Seconds of CPU, kilobytes of memory now and at the peak: of this process and those below it."""
    seconds, now, peak = 0.0, 0, 0
    for process in _processes():
        seconds += cpu_seconds(process)
        status = Path(f"/proc/{process}/status").read_text()
        kilobytes = (
            int(status.partition(f"{name}:")[2].split()[0]) if name in status else 0
            for name in ("VmRSS", "VmHWM")
        )
        now, peak = (total + one for total, one in zip((now, peak), kilobytes, strict=True))
    return seconds, now, peak


def _processes() -> list[int]:
    """The ids of this process and of those below it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    found = [os.getpid()]
    for known in found:
        found += [process for process, parent in parents.items() if parent == known]
    return found


# An empty flow with the same number of task runs.


@task
def nothing(prompt: str) -> None:
    """Do nothing."""


@flow
def nothing_flow(task_runs: int) -> None:
    """Run tasks that do nothing."""
    nothing.map([f"prompt {n}" for n in range(task_runs)]).wait()


def _empty(nothing_for: Work) -> None:
    nothing_flow(len(nothing_for.prompts) * TASK_RUNS)


# By hand: two tasks and `.map`, no ledger, with as many threads as there are slots.


@task
def ask(prompt: str, work: dict[str, Any]) -> str:
    """Have a picture made; returns its address."""
    return generate_once(prompt, work)


@flow
def by_hand(prompts: list[str], work: dict[str, Any]) -> int:
    """Ask for all, and copy all; returns how many pictures are stored."""
    urls = ask.map(prompts, unmapped(work))
    return len(copy.map(urls, unmapped(work)).result())


def _by_hand(work: Work) -> None:
    settings = {name: value for name, value in vars(work).items() if name != "prompts"}
    threads: Any = ThreadPoolTaskRunner(max_workers=work.slots)
    by_hand.with_options(task_runner=threads)(work.prompts, settings)


if __name__ == "__main__":
    main()
