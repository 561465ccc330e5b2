"""What a plan costs in CPU and memory, against reading the list alone.

    make bench-plan                                   # 100 to 100,000 prompts, a few minutes
    make bench-plan ARGS="--prompts 100,1000"

Each cell is a process of its own, one after the other, and the least of three counts. It prints one
table, and ends with 1 if a plan's CPU per prompt grows with the list.
"""

from __future__ import annotations

import argparse
import csv
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench_servers import Api, Servers, api_server, script, servers
from plan_variants import VARIANTS, PlanWork

CHILD = Path(__file__).with_name("plan_variants.py")
TIMES = 3
MOST_GROWTH = 1.5
"""What a prompt of the longest list may cost, by what one of 1,000 costs."""
GROWTH_FROM = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and say whether it is as it must be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the servers, too
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", default="100,1000,10000,100000", help="as 100,1000")
    counts = [int(n) for n in parser.parse_args(argv).prompts.split(",")]
    with tempfile.TemporaryDirectory(prefix="bench-plan-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        _write(home / "one.csv", 1)
        with servers(home) as around, api_server(around, "plan", 1, 0.0) as api:
            head = "| prompts | CPU of a plan | / checking the list | / csv.DictReader"
            print(f"{head} | kB of memory a prompt |")
            print("| ---: | ---: | ---: | ---: | ---: |")
            each = {count: _row(around, api, home, count) for count in counts}
    longest = max(counts)
    if longest <= GROWTH_FROM or GROWTH_FROM not in each:
        return 0
    growth = each[longest] / each[GROWTH_FROM]
    print(f"\nCPU a prompt with {longest:,} prompts / with {GROWTH_FROM:,}: {growth:.2f}", end="; ")
    print(f"required: at most {MOST_GROWTH}")
    return 0 if growth <= MOST_GROWTH else 1


def _row(around: Servers, api: Api, home: Path, count: int) -> float:
    """Measure one length, and print it; returns the seconds of CPU that a plan takes for a prompt."""
    path = home / f"{count}.csv"
    _write(path, count)
    cpu: dict[str, float] = {}
    kilobytes = 0.0
    for variant in VARIANTS:
        work = PlanWork(variant, str(path), api.base_url, api.key, around.s3_url)
        cells = []
        for _ in range(TIMES):
            with script(CHILD, work, around.env, around.log) as started:
                started.wait_until_ready()
                started.go()
                cells.append(started.result())
        assert {cell["prompts"] for cell in cells} == {count}
        cpu[variant] = min(cell["cpu"] for cell in cells)
        kilobytes = min(cell["kb"] for cell in cells) / count
    seconds = f"{cpu['plan']:.2f} s"
    by_parsing, by_reader = (f"{cpu['plan'] / max(cpu[v], 1e-6):,.1f}" for v in ("parsing", "reader"))
    print(f"| {count:,} | {seconds} | {by_parsing} | {by_reader} | {kilobytes:.1f} |", flush=True)
    return cpu["plan"] / count


def _write(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt", "model", "quantity", "aspect_ratio"])
        for n in range(count):
            prompt = f"a lighthouse in fog, seen from boat {n}, gouache on rough paper, muted colours"
            rows.writerow(
                [prompt, ("nano-banana", "nanobanan-2")[n % 2], n % 4 + 1, ("1:1", "16:9")[n % 2]]
            )


if __name__ == "__main__":
    sys.exit(main())
