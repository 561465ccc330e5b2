"""What a prompt costs, beyond the API: ours, a hand-written `.map` flow, an empty flow, bare asyncio.

    make bench-scale                              # 100 and 1,000 prompts, some minutes
    make bench-scale ARGS="--prompts 1000,10000"  # an hour

Everything runs on this machine, one cell after the other, with a Nano Banana server that answers at
once; all share one Prefect server and one S3 server. CPU and memory are those of the process that does
the work, S3 requests those that the S3 server logs. It prints one table, and ends with 1 if a
requirement is not met.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_servers import Servers, api_server, script, servers
from scale_variants import Work

CHILD = Path(__file__).with_name("scale_variants.py")
SLOTS = 16
NAMES = {
    "ours": "ours",
    "resume": "ours, all of it finished before",
    "empty": "an empty flow with as many task runs",
    "map": "by hand: two tasks and .map",
    "bare": "asyncio, no Prefect",
}
MOST_BY_EMPTY = 2.0
MOST_KB = 30.0
MOST_GROWTH = 1.1
MOST_RESUME_REQUESTS = 0.01
JUDGED_FROM = 1_000
"""With fewer prompts, what a run costs once weighs too much."""
PAUSE_SECONDS = 10.0
"""Prefect's server on SQLite goes on writing events for a while, and the next cell has to wait."""


@dataclass(frozen=True)
class Measured:
    """One row of the table; all but `prompts` is per prompt.

    Attributes:
        variant: What was measured.
        prompts: How many there were.
        wall: Milliseconds from the call to its return.
        cpu: Milliseconds of CPU.
        kb: Kilobytes of memory, at the peak, beyond what the process had before.
        s3: Requests to the S3 server.
    """

    variant: str
    prompts: int
    wall: float
    cpu: float
    kb: float
    s3: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and say what is not as it must be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the servers, too
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", default="100,1000", help="as 100,1000, the default")
    parser.add_argument("--only", default=",".join(NAMES), help="variants, as ours,resume,empty")
    options = parser.parse_args(argv)
    counts = [int(count) for count in options.prompts.split(",")]
    with tempfile.TemporaryDirectory(prefix="nanobanana-bench-") as home, servers(Path(home)) as around:
        rows = [*_measure(around, Path(home), counts, options.only.split(","))]
    print(table(rows))
    problems = judge(rows)
    print("\n" + "\n".join([f"NOT MET: {p}" for p in problems] or ["All requirements are met."]))
    return 1 if problems else 0


def _measure(
    around: Servers, home: Path, counts: Sequence[int], variants: Sequence[str]
) -> Iterator[Measured]:
    for count in counts:
        with api_server(around, f"scale-{count}", SLOTS, 0.0) as api:
            for variant in (name for name in NAMES if name in variants):
                print(f"{NAMES[variant]}, {count} prompts", file=sys.stderr, flush=True)
                does = "ours" if variant == "resume" else variant
                folder = f"{does}-{count}"
                key, url = api.key, around.s3_url
                work = Work(does, SLOTS, api.base_url, key, url, folder, first=0, count=count)
                before = _s3_requests(home)
                with script(CHILD, work, around.env, around.log) as child:
                    child.wait_until_ready()
                    child.go()
                    yield _row(variant, count, child.result(), _s3_requests(home) - before)
                time.sleep(PAUSE_SECONDS)


def _s3_requests(home: Path) -> int:
    """How many requests the S3 server has logged."""
    return (home / "moto.log").read_text(errors="replace").count('HTTP/1.1"')


def _row(variant: str, count: int, found: dict[str, Any], requests: int) -> Measured:
    return Measured(
        variant,
        count,
        wall=1000 * (found["ended"] - found["began"]) / count,
        cpu=1000 * found["cpu"] / count,
        kb=max(0, found["peak_kb"] - found["before_kb"]) / count,
        s3=requests / count,
    )


def table(rows: Sequence[Measured]) -> str:
    """The rows as markdown; CPU also in those of the empty flow."""
    lines = [
        "| variant | prompts | wall ms | CPU ms | CPU / empty flow | memory kB | S3 requests |",
        "| --- |" + " ---: |" * 6,
    ]
    for row in rows:
        ratio = _by_empty(row, rows)
        shown = "" if ratio is None else f"{ratio:.2f}"
        lines.append(
            f"| {NAMES[row.variant]} | {row.prompts} | {row.wall:.1f} | {row.cpu:.1f} | {shown} "
            f"| {row.kb:.1f} | {row.s3:.3f} |"
        )
    return "\n".join(lines)


def judge(rows: Sequence[Measured]) -> list[str]:
    """Say which requirements are not met."""
    problems = []
    for row in rows:
        name = f"{NAMES[row.variant]}, {row.prompts} prompts"
        if row.prompts < JUDGED_FROM or row.variant not in ("ours", "resume"):
            continue
        ratio = _by_empty(row, rows)
        if row.variant == "ours" and ratio is not None and ratio > MOST_BY_EMPTY:
            problems.append(f"{name}: {ratio:.2f} times the CPU of an empty flow, not {MOST_BY_EMPTY:g}")
        if row.variant == "resume" and row.s3 > MOST_RESUME_REQUESTS:
            problems.append(f"{name}: {row.s3:.3f} S3 requests, not {MOST_RESUME_REQUESTS:g}")
        if row.prompts < 10_000:
            continue
        if row.kb > MOST_KB:
            problems.append(f"{name}: {row.kb:.1f} kB of memory, not {MOST_KB:g}")
        for other in rows:
            if (other.variant, other.prompts) == (
                row.variant,
                1_000,
            ) and row.cpu > MOST_GROWTH * other.cpu:
                problems.append(f"{name}: {row.cpu / other.cpu:.2f} times the CPU of 1,000")
    return problems


def _by_empty(row: Measured, rows: Sequence[Measured]) -> float | None:
    for other in rows:
        if other.variant == "empty" and other.prompts == row.prompts and row.variant != "empty":
            return row.cpu / other.cpu
    return None


if __name__ == "__main__":
    sys.exit(main())
