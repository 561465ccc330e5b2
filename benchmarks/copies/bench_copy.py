"""How fast images are copied from their addresses into S3: ours, by hand, rclone, and what limits them.

    make bench-copy                   # all of it, about 20 minutes
    make bench-copy ARGS=--quick      # few images, to see that it works; fixed costs weigh more
    make bench-copy ARGS="--only 'rclone-0-*,peak' --variants a,d,f,g --rounds 5"

Everything runs on this machine: a server of pictures, two S3 servers, proxies that add a wait to every
answer, and each variant in a process of its own. Variants take turns, in rounds, and are compared with
those of the same round. It prints a table for each server, wait and size, and ends with 1 if a
requirement is not met.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

import copy_pictures
from bench_servers import environment, prefect_server, script
from copy_servers import Machines, Store, Way, source, stores
from copy_table import (
    LARGE,
    NAMES,
    SMALL,
    Cell,
    Measured,
    Requirement,
    Results,
    beside_rclone,
    peak,
    requirements,
    table,
)
from copy_variants import Work

from prefect_nanobanana.sandbox.s3 import free_port

CHILD = Path(__file__).with_name("copy_variants.py")
WAIT_SECONDS = 0.04
STORES = ("radosgw", "rclone")
PEAK = "peak"
PEAK_TURNS = 100
"""Those runs are counted from here on."""
AT_ONCE = 16
"""So many copies of large images the memory is measured with."""
CHECKED = 3
"""So many objects of each run are compared with what they are copies of."""
IN_MEMORY = Path("/dev/shm")
NEEDED_BYTES = 6 * 1024**3


@dataclass(frozen=True)
class Counts:
    """How many images, by megabytes; fewer for what is slow and whose rate is known soon."""

    usual: Mapping[float, int]
    sequential_with_wait: int
    flow: int
    rounds: int
    rounds_without_wait: int

    def rounds_in(self, cell: Cell) -> int:
        """How many rounds: more without a wait, where most is required."""
        return self.rounds if cell.wait else self.rounds_without_wait

    def of(self, cell: Cell, variant: str) -> int:
        """How many images a run copies."""
        usual = self.usual[cell.megabytes]
        if variant == "a" and cell.wait:
            return min(usual, self.sequential_with_wait)
        return min(usual, self.flow) if variant == "e" else usual


WHOLE = Counts({SMALL: 500, LARGE: 20}, 60, 100, rounds=3, rounds_without_wait=7)
QUICK = Counts({SMALL: 60, LARGE: 8}, 20, 20, rounds=1, rounds_without_wait=1)

WHY_RCLONE = (
    "Why: rclone is compiled, and its threads run side by side. It also does less: it hashes nothing, "
    "sends neither a checksum nor a signature of the payload, compares nothing but the object's size, "
    "and does not look whether the key is taken or whether the bytes are a picture."
)


class Bench:
    """Measures one run after the other.

    Args:
        pictures: The folder of the pictures, which has one for each size.
        started: The S3 servers.
        ways: How to reach them, by the wait; `None` stands for a proxy that adds no wait.
        env: The environment of the runs.
        log: Where they write what they say.
    """

    def __init__(
        self,
        pictures: Path,
        started: Sequence[Store],
        ways: Mapping[float | None, Way],
        env: Mapping[str, str],
        log: IO[str],
    ) -> None:
        self._pictures = pictures
        self._stores = {store.name: store for store in started}
        self._ways = ways
        self._env = env
        self._log = log

    def run(self, cell: Cell, variant: str, turn: int, count: int) -> Measured:
        """Measure one run, check what it stored, and delete that."""
        store, pictures = self._stores[cell.store], self._pictures / f"{cell.megabytes:g}"
        way = self._ways[None if variant.endswith("0") else cell.wait]
        untagged = "/untagged" if variant.endswith("-") else ""
        work = Work(
            variant=variant[0],
            source_url=f"{way.source_url}{untagged}/{cell.megabytes:g}",
            s3_url=way.s3_urls[store.name],
            provider=store.provider,
            access_key=store.access_key,
            secret_key=store.secret_key,
            folder=f"{cell.name}-{variant}-{turn}",
            names=list(copy_pictures.names(count)),
            api_url=f"{way.api_url}/{cell.megabytes:g}",
        )
        with script(CHILD, work, self._env, self._log) as child:
            child.wait_until_ready()
            child.go()
            result = child.result()
        if work.variant in "abcde":
            _check(store, work, pictures)
        store.empty(work.folder)
        size = sum((pictures / f"{name}.png").stat().st_size for name in work.names)
        return Measured(
            *(cell, variant, turn, count, size),
            seconds=result["seconds"],
            cpu_seconds=result["cpu_seconds"],
            peak=max(0, result["peak_bytes"] - result["idle_bytes"]),
        )


def _check(store: Store, work: Work, pictures: Path) -> None:
    """Check that all was stored, and some of it byte by byte."""
    keys = {_picture(key): key for key in store.keys(work.folder) if key.endswith(".png")}
    missing = set(work.names) - set(keys)
    if missing:
        raise RuntimeError(f"{work.folder}: {len(missing)} images were not stored")
    for name in random.sample(work.names, CHECKED):
        sums = [
            hashlib.sha256(content).digest()
            for content in (store.read(keys[name]), (pictures / f"{name}.png").read_bytes())
        ]
        if sums[0] != sums[1]:
            raise RuntimeError(f"{keys[name]} is not what {name}.png is")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and say what is not as it must be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the servers, too
    options = _options(argv)
    wanted = [
        Cell(store, wait, megabytes)
        for store in STORES
        for wait in (0.0, WAIT_SECONDS)
        for megabytes in (SMALL, LARGE)
    ]
    cells = [cell for cell in wanted if _is_wanted(cell.name, options)]
    peaks = [store for store in STORES if _is_wanted(f"{store}-{PEAK}", options)]
    names = [name for name in STORES if name in {*peaks, *(cell.store for cell in cells)}]
    with (
        tempfile.TemporaryDirectory(prefix="nanobanana-bench-", dir=_room()) as home,
        ExitStack() as stack,
    ):
        bench = _start(Path(home), names, options, stack)
        runs, memory = _measure(bench, cells, peaks, options)
    found = [Results(cell, runs) for cell in cells]
    for results in found:
        print(f"{table(results)}\n")
    print(notes(options))
    required = [item for results in found for item in requirements(results)]
    required += [peak(store, of_store) for store, of_store in memory.items()]
    _report(required, [said for said in map(beside_rclone, found) if said])
    return 0 if all(item.met for item in required) else 1


def _start(home: Path, names: Sequence[str], options: argparse.Namespace, stack: ExitStack) -> Bench:
    """Make the pictures, and start all servers."""
    prefect = str(free_port())
    env = environment(home, f"http://127.0.0.1:{prefect}/api")
    log = stack.enter_context((home / "processes.log").open("w"))
    stack.push(lambda kind, *_: _show_log(home) if kind is not None else None)
    pictures = home / "pictures"
    for megabytes, count in options.counts.usual.items():
        copy_pictures.make(pictures / f"{megabytes:g}", megabytes, max(count, AT_ONCE))
    url = stack.enter_context(source(pictures, env, log))
    started = stack.enter_context(stores(home, names))
    if "e" in options.variants:
        stack.enter_context(prefect_server(prefect, env, log))
    machines = Machines(stack, env, log)
    waits = {0.0: None, None: 0.0, WAIT_SECONDS: WAIT_SECONDS}
    ways = {which: machines.way(url, started, wait) for which, wait in waits.items()}
    return Bench(pictures, started, ways, env, log)


def _measure(
    bench: Bench, cells: Sequence[Cell], peaks: Sequence[str], options: argparse.Namespace
) -> tuple[list[Measured], dict[str, list[Measured]]]:
    """All runs of the cells, and those whose memory is looked at, by the S3 server's name."""
    began = time.monotonic()
    runs: list[Measured] = []
    memory: dict[str, list[Measured]] = {}
    for cell in cells:
        for turn in range(options.counts.rounds_in(cell)):
            # No variant always comes first, or always after the same one, whose objects the store may
            # still be busy with.
            variants = [name for name in options.variants if _applies(name, cell, turn)]
            random.Random(f"{cell.name} {turn}").shuffle(variants)
            for variant in variants:
                run = bench.run(cell, variant, turn, options.counts.of(cell, variant))
                runs.append(run)
                _tell(began, f"{cell.name} {variant} {turn}: {run.rate:.1f} images/s")
    for store in peaks:
        memory[store] = [
            bench.run(Cell(store, 0.0, LARGE), "d", PEAK_TURNS + turn, AT_ONCE)
            for turn in range(options.counts.rounds)
        ]
        _tell(began, f"{store}-{PEAK}")
    return runs, memory


def _applies(variant: str, cell: Cell, turn: int) -> bool:
    """Whether a variant is run there and then: once is enough for what no requirement needs."""
    if variant.endswith("-"):
        return cell.wait == 0
    if variant.endswith("0"):
        return turn == 0 and cell.wait == 0 and cell.megabytes == SMALL
    return turn == 0 or variant != "e"


def notes(options: argparse.Namespace) -> str:
    """What a reader of the tables has to know."""
    lines = [
        f"Medians of {options.counts.rounds} rounds, and of {options.counts.rounds_without_wait} where "
        "there is no wait. In each, the variants took turns, in an order of its own; ratios are of "
        "runs in one round. CPU time and memory are the copying process's, not the servers'; memory is "
        "the most in any round, above that of the process after its imports and one copy.",
        "Both limits together are `1 / (1 / download + 1 / upload)`: what those two reach one after the "
        "other. Here the servers and the copies share the cores: none is idle while another works.",
        "The pictures' server says each picture's MD5 as its tag, as image hosts do that are object "
        "stores. Both stores make their own tag of what they get, and the two are compared; where the "
        "host says none, our copy works it out. Neither is known to check, and nothing is set.",
        "(e) ran in the first round only. It includes Prefect's task runs, the records in the bucket, "
        "thumbnails and the gallery, and its Prefect server takes CPU time from the same machine. (c) "
        "includes the start of rclone.",
        "The wait is added where an answer begins, by proxies before the S3 server and the pictures' "
        "server, for the limits, too; `100 Continue` is an answer. What the proxies cost without a wait "
        "is in the tables of 1.5 MB.",
        f"{CHECKED} objects of each run were compared with the pictures that they are copies of.",
    ]
    return "\n\n".join(lines)


def _report(required: Sequence[Requirement], ahead: Sequence[str]) -> None:
    print("\nRequirements:\n")
    for item in required:
        print(f"- {item}")
    if ahead:
        print("\nWhere rclone is ahead:\n")
        for said in ahead:
            print(f"- {said}")
        print(f"\n{WHY_RCLONE}")
    print("\n" + ("All requirements are met." if all(item.met for item in required) else "NOT ALL MET."))


def _tell(began: float, what: str) -> None:
    print(f"{time.monotonic() - began:5.0f} s: {what}", file=sys.stderr, flush=True)


def _show_log(home: Path) -> None:
    print((home / "processes.log").read_text(errors="replace")[-5000:], file=sys.stderr)


def _room() -> str | None:
    """Where files are kept: in memory if there is room, as a disk writes when it likes."""
    if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > NEEDED_BYTES:
        return str(IN_MEMORY)
    return None


def _picture(key: str) -> str:
    """The name of the picture that a key holds: the flow adds more to it."""
    return key.rpartition("/")[2][:4]


def _is_wanted(name: str, options: argparse.Namespace) -> bool:
    return any(fnmatch(name, pattern) for pattern in options.only)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    def listed(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cells = "cells, as 'radosgw-0-1.5,rclone-40-*,*-peak'"
    parser.add_argument("--only", type=listed, default=["*"], help=cells)
    parser.add_argument("--variants", type=listed, default=list(NAMES), help="as a,c,d,f,g")
    parser.add_argument("--rounds", type=int, help="how many (3, and 7 where there is no wait)")
    parser.add_argument("--quick", action="store_true", help="few images, one round")
    options = parser.parse_args(argv)
    options.counts = QUICK if options.quick else WHOLE
    if rounds := options.rounds:
        options.counts = replace(options.counts, rounds=rounds, rounds_without_wait=rounds)
    return options


if __name__ == "__main__":
    sys.exit(main())
