"""What a prompt costs, beyond the API: ours in one process, in two, on Dask and on Ray, and others.

    make bench-scale                                              # 100 and 1,000 prompts, an hour
    make bench-scale ARGS="--prompts 1000,10000 --only empty,ours,ours-again"

Everything runs on this machine, one cell after the other, with a Nano Banana server that answers at
once; all share one Prefect server and one S3 server. CPU and memory are those of the processes that do
the work, requests those that the servers log. It prints one table, and ends with 1 if a requirement is
not met.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench_servers import Api, Servers, api_server, script, servers
from scale_variants import ScaleWork

CHILD = Path(__file__).with_name("scale_variants.py")
SLOTS = 16
AGAIN = ", all of it finished before"
OURS = {
    "ours": "ours",
    "two": "ours, two processes",
    "dask": "ours, on Dask (2)",
    "ray": "ours, on Ray (2)",
}
NAMES = {
    "empty": "an empty flow with as many task runs",
    "map": "by hand: two tasks and .map",
    "bare": "asyncio, no Prefect",
    **OURS,
    **{f"{variant}-again": name + AGAIN for variant, name in OURS.items()},
}
"""In the order in which they run: `-again` needs what the same without has left."""
MOST_BY_EMPTY = 2.0
MOST_KB = 30.0
MOST_GROWTH = 1.1
MOST_AGAIN_REQUESTS = 0.01
MOST_AGAIN_SECONDS = 15.0
JUDGED_FROM = 1_000
"""With fewer prompts, what a run costs once weighs too much."""


@dataclass(frozen=True)
class Measured:
    """One row of the table; all but `prompts` is per prompt.

    Attributes:
        variant: What was measured.
        prompts: How many there were.
        wall: Milliseconds from the call to its return.
        cpu: Milliseconds of CPU.
        kb: Kilobytes of memory, at the peak, beyond what the processes had before.
        s3: Requests to the S3 server.
        prefect: Requests to Prefect's server, its event stream not counted.
    """

    variant: str
    prompts: int
    wall: float
    cpu: float
    kb: float
    s3: float
    prefect: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and say what is not as it must be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the servers, too
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", default="100,1000", help="as 100,1000, the default")
    parser.add_argument("--only", default=",".join(NAMES), help="variants, as empty,ours,ours-again")
    options = parser.parse_args(argv)
    counts = [int(count) for count in options.prompts.split(",")]
    with (
        tempfile.TemporaryDirectory(prefix="nanobanana-bench-") as home,
        servers(Path(home), log_requests=True) as around,
    ):
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
                row = _cell(around, home, api, variant, count)
                print(row, file=sys.stderr, flush=True)
                yield row
                around.wait_until_idle()


def _cell(around: Servers, home: Path, api: Api, variant: str, count: int) -> Measured:
    does = variant.removesuffix("-again")
    parts = 2 if does == "two" else 1
    with ExitStack() as stack:
        children = []
        for part in range(parts):
            work = ScaleWork(
                "ours" if does in OURS else does,
                SLOTS,
                api.base_url,
                api.key,
                around.s3_url,
                f"{does}-{count}-{part}",
                count=count // parts,
                engine=does if does in ("dask", "ray") else "",
            )
            children.append(stack.enter_context(script(CHILD, work, around.env, around.log)))
        for child in children:
            child.wait_until_ready()
        before = [_requests(home / name) for name in ("moto.log", "prefect.log")]
        for child in children:
            child.go()
        found = [child.result() for child in children]
    s3, prefect = (
        _requests(home / name) - earlier
        for name, earlier in zip(("moto.log", "prefect.log"), before, strict=True)
    )
    return Measured(
        variant,
        count,
        wall=1000 * (max(f["ended"] for f in found) - min(f["began"] for f in found)) / count,
        cpu=1000 * sum(f["cpu"] for f in found) / count,
        kb=sum(f["kb"] for f in found) / count,
        s3=s3 / count,
        prefect=prefect / count,
    )


def _requests(log: Path) -> int:
    """How many requests a server has logged."""
    with log.open(errors="replace") as lines:
        return sum('HTTP/1.1"' in line for line in lines)


def table(rows: Sequence[Measured]) -> str:
    """The rows as markdown; CPU also in those of the empty flow."""
    lines = [
        "| variant | prompts | wall ms | CPU ms | CPU / empty flow | memory kB | S3 requests "
        "| Prefect requests |",
        "| --- |" + " ---: |" * 7,
    ]
    for row in rows:
        ratio = _by(row, rows, "empty", row.prompts)
        lines.append(
            f"| {NAMES[row.variant]} | {row.prompts} | {row.wall:.1f} | {row.cpu:.1f} "
            f"| {'' if ratio is None else f'{ratio:.2f}'} | {row.kb:.1f} | {row.s3:.3f} "
            f"| {row.prefect:.3f} |"
        )
    return "\n".join(lines)


def judge(rows: Sequence[Measured]) -> list[str]:
    """Say which requirements are not met; they are those of one process."""
    problems = []
    for row in rows:
        name = f"{NAMES[row.variant]}, {row.prompts} prompts"
        if row.prompts < JUDGED_FROM or row.variant not in ("ours", "ours-again"):
            continue
        ratio = _by(row, rows, "empty", row.prompts)
        if row.variant == "ours" and ratio is not None and ratio > MOST_BY_EMPTY:
            problems.append(f"{name}: {ratio:.2f} times the CPU of an empty flow, not {MOST_BY_EMPTY:g}")
        if row.variant == "ours-again" and row.s3 > MOST_AGAIN_REQUESTS:
            problems.append(f"{name}: {row.s3:.3f} S3 requests, not {MOST_AGAIN_REQUESTS:g}")
        if row.prompts < 10_000:
            continue
        seconds = row.wall * row.prompts / 1000
        if row.variant == "ours-again" and seconds > MOST_AGAIN_SECONDS:
            problems.append(f"{name}: {seconds:.1f} s, not {MOST_AGAIN_SECONDS:g}")
        if row.kb > MOST_KB:
            problems.append(f"{name}: {row.kb:.1f} kB of memory, not {MOST_KB:g}")
        growth = _by(row, rows, row.variant, JUDGED_FROM)
        if growth is not None and growth > MOST_GROWTH:
            problems.append(f"{name}: {growth:.2f} times the CPU of {JUDGED_FROM}, not {MOST_GROWTH:g}")
    return problems


def _by(row: Measured, rows: Sequence[Measured], variant: str, prompts: int) -> float | None:
    """A row's CPU in those of another; None if there is none, or it is itself."""
    for other in rows:
        if (other.variant, other.prompts) == (variant, prompts) and other is not row:
            return row.cpu / other.cpu
    return None


if __name__ == "__main__":
    sys.exit(main())
