"""How busy the account's slots are kept: ours, what people write by hand, and a script without Prefect.

    make bench-slots                    # all of it, about an hour
    make bench-slots ARGS=--quick       # to see that it works; fixed costs weigh more
    make bench-slots ARGS="--only c,d --slots 4 --latency 2"

Everything runs on this machine: each cell has a Nano Banana server (the sandbox) of its own, which
measures how busy its account is; all share one Prefect server and one S3 server. It prints one table,
and ends with 1 if a requirement is not met.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
from bench_servers import BUCKET, HTTP, Api, Servers, Work, api_server, child, servers

LEAST_BUSY = {"c": 0.97, "e": 0.93}
LONGEST_BY_BARE = 1.05
ADDED_SECONDS = 2.0
"""What a run may take beyond that where a request takes less than 10 s."""
SHORT_LATENCY = 10.0
LATEST_FIRST = LATEST_RETURN = 1.0
"""Seconds from the call to the first request, and from the end of the last one to the return."""
JUDGED_FROM_SECONDS = 60.0
"""In shorter runs the fixed costs of starting and ending weigh too much to judge shares of time."""
NAMES = {
    "a": "(a) by hand: limit in the task",
    "b": "(b) by hand: semaphore, limit",
    "c": "(c) ours",
    "d": "(d) asyncio, no Prefect",
    "e": "(e) ours, one process killed",
}
SHARE_BY_HAND = 3
"""(a) and (b) are slow and their shares known soon: they get so many times fewer prompts."""
KILL_AT = 1 / 3
SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Cell:
    """One row of the table, before it is measured."""

    variant: str
    slots: int
    latency: float
    rounds: int
    processes: int = 1

    @property
    def name(self) -> str:
        """For limits, folders and keys."""
        return f"{self.variant}-{self.slots}-{self.latency:g}-{self.processes}"

    @property
    def prompts(self) -> int:
        """A multiple of the slots, so that the last round can keep all of them busy too."""
        return self.rounds * self.slots

    @property
    def ideal(self) -> float:
        """Seconds that the generations take if the slots never idle."""
        return self.rounds * self.latency


WARM_UP = Cell("c", 1, 0.1, rounds=1)
"""Runs before all others: the first run on a new Prefect server starts 2 to 3 s late."""


@dataclass(frozen=True)
class Measured:
    """One row of the table.

    Attributes:
        busy: The share of slot time that was busy, as the API counts it, from the first request's
            opening to the last one's closing.
        busy_waiting: The same until the last request's opening: while prompts waited.
        makespan: Seconds from the call to its return.
        first: Seconds until the first request is open: from the call of the flow's body, as far as it is
            ours, as what Prefect does before that is its own; else from the call.
        last: Seconds from the end of the last request to the return.
        refusals: 429s, before a kill if there was one.
        refusals_after: 429s after the kill.
        most_open: Most requests open at once.
        stored: Prompts whose picture is in S3 at the end.
        unknown: Prompts that were in flight in the killed process.
        twice: Prompts that were paid for more than once.
        idle_after: Slot seconds idle after the kill, while prompts waited.
    """

    cell: Cell
    busy: float
    busy_waiting: float
    makespan: float
    first: float
    last: float
    refusals: int
    most_open: int
    stored: int
    unknown: int
    twice: int
    refusals_after: int | None = None
    idle_after: float | None = None

    @property
    def by_ideal(self) -> float:
        """The makespan in ideal makespans."""
        return self.makespan / self.cell.ideal


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and say what is not as it must be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the servers, too
    options = _options(argv)
    cells = _cells(options)
    with tempfile.TemporaryDirectory(prefix="nanobanana-bench-") as home:
        with servers(Path(home)) as around:
            rows = [*_measure(around, cells)]
        rows.sort(key=lambda row: (row.cell.slots, row.cell.latency, row.cell.name))
    print(table(rows))
    print(f"\n{notes(rows)}")
    problems = judge(rows)
    print("\n" + "\n".join([f"NOT MET: {p}" for p in problems] or ["All requirements are met."]))
    return 1 if problems else 0


def _measure(around: Servers, cells: Sequence[Cell]) -> Iterable[Measured]:
    started = time.monotonic()
    # (a) and (b) mostly wait, and run side by side; everything else has the machine to itself.
    alone = [cell for cell in cells if cell.variant not in "ab"]
    measure(around, WARM_UP)
    slow: dict[tuple[int, float], list[Cell]] = {}
    for cell in cells:
        if cell.variant in "ab":
            slow.setdefault((cell.slots, cell.latency), []).append(cell)
    with ThreadPoolExecutor(2) as pool:
        for group in [*([cell] for cell in alone), *slow.values()]:
            names = ", ".join(cell.name for cell in group)
            print(f"{time.monotonic() - started:5.0f} s: {names}", file=sys.stderr, flush=True)
            around.wait_until_idle()
            yield from pool.map(lambda cell: measure(around, cell), group)


def measure(around: Servers, cell: Cell) -> Measured:
    """Run one cell."""
    if cell.variant in "ab":
        limit = {"name": cell.name, "limit": cell.slots}
        url = f"{around.prefect_url}/api/v2/concurrency_limits/"
        HTTP.post(url, json=limit).raise_for_status()
    with ExitStack() as stack:
        api = stack.enter_context(api_server(around, cell.name, cell.slots, cell.latency))
        works = [_work(around, api, cell, number) for number in range(cell.processes)]
        runs = [stack.enter_context(child(around, work)) for work in works]
        for run in runs:
            run.wait_until_ready()
        for run in runs:
            run.go()
        if cell.variant != "e":
            return _row(around, cell, [run.result() for run in runs], api.books())
        samples = stack.enter_context(Samples(api, cell))
        before = _wait_for_the_kill(api, cell)
        runs[0].kill()
        killed_at = time.monotonic()
        resumed = stack.enter_context(child(around, works[0]))
        resumed.go()
        resumed.wait_until_ready()
        row = _row(around, cell, [run.result() for run in [*runs[1:], resumed]], api.books())
    return replace(
        row,
        refusals=before["refusals"],
        refusals_after=row.refusals - before["refusals"],
        idle_after=samples.idle_since(killed_at),
    )


def _work(around: Servers, api: Api, cell: Cell, number: int) -> Work:
    """What the process with this number is to do; each has a list and a batch of its own."""
    return Work(
        *(cell.variant, cell.slots, api.base_url, api.key, around.s3_url),
        folder=cell.name if cell.processes == 1 else f"{cell.name}-{number}",
        prompts=[f"of {number}: {n}" for n in range(number, cell.prompts, cell.processes)],
    )


def _wait_for_the_kill(api: Api, cell: Cell) -> dict[str, Any]:
    """Wait until the first process has a request in flight, some time into the run."""
    time.sleep(cell.ideal * KILL_AT)
    while True:
        books = api.books()
        if any(g["status"] == "processing" and "of 0:" in g["prompt"] for g in books["generations"]):
            return books
        if len(books["generations"]) >= cell.prompts:
            raise RuntimeError(f"{cell.name}: it was over before it could be killed")
        time.sleep(0.05)


class Samples:
    """Looks at the API's books again and again. Use it as a context manager."""

    def __init__(self, api: Api, cell: Cell) -> None:
        self._api = api
        self._cell = cell
        self._taken: list[tuple[float, float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Samples:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            books = self._api.books()
            self._taken.append((time.monotonic(), books["busy_seconds"], len(books["generations"])))

    def idle_since(self, moment: float) -> float:
        """Slot seconds that were idle after a moment, while prompts waited."""
        opened = self._taken[-1][2]
        taken = [s for s in self._taken if s[0] >= moment and s[2] < opened]
        if not taken:
            return 0.0
        (began, busy_then, _), (ended, busy, _) = taken[0], taken[-1]
        return self._cell.slots * (ended - began) - (busy - busy_then)


def _row(
    around: Servers, cell: Cell, results: Sequence[dict[str, Any]], books: dict[str, Any]
) -> Measured:
    """Put together what the processes (after a kill, the resumed one last) and the API say."""
    began = min(result["began"] for result in results)
    ended = max(result["ended"] for result in results)
    waited = books["last_opened"] - books["first_opened"]
    paid = Counter(generation["prompt"] for generation in books["generations"])
    return Measured(
        cell,
        busy=books["busy_seconds"] / (cell.slots * books["open_seconds"]),
        busy_waiting=books["busy_until_last_opened"] / (cell.slots * waited) if waited else 1.0,
        makespan=ended - began,
        first=books["first_opened"] - min(result.get("body", began) for result in results),
        last=ended - books["last_closed"],
        refusals=books["refusals"],
        most_open=books["most_open"],
        stored=_pictures(around, cell),
        unknown=results[-1].get("unknown", 0),
        twice=sum(count > 1 for count in paid.values()),
    )


def _pictures(around: Servers, cell: Cell) -> int:
    """How many pictures of a cell are in S3."""
    s3 = boto3.client(
        "s3",
        endpoint_url=around.s3_url,
        region_name="us-east-1",
        aws_access_key_id="bench",
        aws_secret_access_key="bench-secret",
    )
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=cell.name)
    return sum("/images/" in item["Key"] for page in pages for item in page.get("Contents", []))


def table(rows: Sequence[Measured]) -> str:
    """The rows as markdown."""
    lines = [
        "| variant | C | processes | latency s | N | busy | busy while waiting | makespan / ideal "
        "| makespan / (d) | 429s | most open | first request after s | return after last s "
        "| idle after kill |",
        "| --- |" + " ---: |" * 13,
    ]
    for row in rows:
        cell, by_bare = row.cell, _by_bare(row, rows)
        killed = row.refusals_after is not None
        values = [
            NAMES[cell.variant],
            str(cell.slots),
            str(cell.processes),
            f"{cell.latency:g}",
            str(cell.prompts),
            f"{row.busy:.1%}",
            f"{row.busy_waiting:.1%}",
            f"{row.by_ideal:.3f}",
            "" if by_bare is None else f"{by_bare:.3f}",
            f"{row.refusals} + {row.refusals_after}" if killed else str(row.refusals),
            str(row.most_open),
            f"{row.first:.2f}",
            f"{row.last:.2f}",
            "" if row.idle_after is None else f"{row.idle_after:.1f}",
        ]
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines)


def notes(rows: Sequence[Measured]) -> str:
    """What a reader of the table has to know."""
    lines = [
        "Busy: slot time with an open request / all slot time, as the API server counts it, from the "
        "first request to the end of the last; while waiting: until the last one begins, as after that "
        "slots idle for want of prompts. Ideal: N / C * latency; N is a multiple of C. The "
        "makespan counts from the call to its return, copies to S3 included.",
    ]
    if any(row.cell.variant in "ab" for row in rows):
        lines.append(
            f"(a) and (b) ran side by side, with 1/{SHARE_BY_HAND} of the rounds of the others; their "
            "makespan / (d) is that of the times per prompt. All others ran alone."
        )
    for row in rows:
        if row.cell.variant == "e":
            lines.append(
                f"(e) {row.cell.name}: {row.cell.processes} processes with a list each, one killed with "
                f"a request in flight at {KILL_AT:.0%} of the ideal and started again at once; "
                f"{row.unknown} of its prompts unknown. 429s: before + after the kill. Idle after kill: "
                "slot seconds while prompts waited; the API works on what the dead process had asked."
            )
    return "\n".join(lines)


def judge(rows: Sequence[Measured]) -> list[str]:
    """Say which requirements are not met."""
    problems = []
    for row in rows:
        cell, by_bare = row.cell, _by_bare(row, rows)
        variant, name = cell.variant, f"{NAMES[cell.variant]}, C={cell.slots}, {cell.latency:g} s"
        lost = cell.prompts - row.stored
        if row.twice:
            problems.append(f"{name}: {row.twice} prompts were paid twice")
        if lost != row.unknown or row.unknown > (cell.slots if variant == "e" else 0):
            problems.append(f"{name}: {lost} prompts are not stored, {row.unknown} of them unknown")
        if variant not in "ce":
            continue
        if row.most_open > cell.slots:
            problems.append(f"{name}: {row.most_open} requests were open at once")
        if row.refusals:
            problems.append(f"{name}: {row.refusals} requests were refused with 429")
        if cell.ideal < JUDGED_FROM_SECONDS:
            print(f"Too short to judge shares of time: {name}", file=sys.stderr)
            continue
        if row.busy < LEAST_BUSY[variant]:
            problems.append(f"{name}: busy {row.busy:.1%}, not {LEAST_BUSY[variant]:.0%}")
        if variant != "c":
            continue
        added = ADDED_SECONDS if cell.latency < SHORT_LATENCY else 0.0
        if by_bare is not None and row.makespan > LONGEST_BY_BARE * row.makespan / by_bare + added:
            longest = f"{LONGEST_BY_BARE} and {added:g} s"
            problems.append(f"{name}: {by_bare:.3f} times as long as (d), not {longest}")
        for what, seconds, latest in [
            ("the first request", row.first, LATEST_FIRST),
            ("the return", row.last, LATEST_RETURN),
        ]:
            if seconds > latest:
                problems.append(f"{name}: {what} came after {seconds:.2f} s, not {latest:g}")
    return problems


def _by_bare(row: Measured, rows: Sequence[Measured]) -> float | None:
    """The makespan in those of the script without Prefect, for as many prompts."""
    for other in rows:
        same = (other.cell.slots, other.cell.latency) == (row.cell.slots, row.cell.latency)
        if other.cell.variant == "d" and same:
            return row.by_ideal / other.by_ideal
    return None


def _cells(options: argparse.Namespace) -> list[Cell]:
    cells = []
    for slots in options.slots:
        for latency in options.latency:
            rounds = max(1, round(options.ideal_seconds / latency))
            few = max(2, round(rounds / SHARE_BY_HAND))
            cells += [Cell(v, slots, latency, few if v in "ab" else rounds) for v in "cdab"]
    latency = options.latency[0]
    rounds = max(1, round(options.ideal_seconds / latency))
    for slots, processes in [(4, 2)] if options.quick else [(1, 2), (4, 2), (4, 4)]:
        if slots in options.slots:
            cells.append(Cell("e", slots, latency, rounds, processes))
    return [cell for cell in cells if cell.variant in options.only]


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    def listed(kind: type) -> Any:
        return lambda text: [kind(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", type=listed(str), default=list("abcde"), help="variants, as c,d")
    parser.add_argument("--slots", type=listed(int), help="as 1,4,16, the default")
    parser.add_argument("--latency", type=listed(float), help="seconds, as 10,20, the default")
    parser.add_argument("--ideal-seconds", type=float, help="how long a run takes at best (120)")
    parser.add_argument("--quick", action="store_true", help="10 s, latencies 1 and 2, C 1 and 4")
    options = parser.parse_args(argv)
    options.slots = options.slots or ([1, 4] if options.quick else [1, 4, 16])
    options.latency = options.latency or ([1.0, 2.0] if options.quick else [10.0, 20.0])
    options.ideal_seconds = options.ideal_seconds or (10.0 if options.quick else 120.0)
    return options


if __name__ == "__main__":
    sys.exit(main())
