"""Measure what `import prefect_nanobanana` costs, relative to `import prefect`.

The package is imported by every process that loads any Prefect block. Both are timed in turn, in new
processes, and the least of each is held against the bound: noise only ever adds.
"""

from __future__ import annotations

import resource
import subprocess
import sys

BOUND = 1.15
ROUNDS = 7


def cpu_seconds(code: str) -> float:
    """CPU seconds of a new Python process that runs `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Print the ratios.

    Returns:
        0 if the cost is within the bound.
    """
    for module in ("prefect", "prefect_nanobanana"):
        cpu_seconds(f"import {module}")  # compiles what is not compiled yet
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(cpu_seconds("import prefect_nanobanana"))
        theirs.append(cpu_seconds("import prefect"))
    ratios = (f"{mine / other:.2f}" for mine, other in zip(ours, theirs, strict=True))
    print("import prefect_nanobanana / import prefect, CPU time, run by run:", *ratios)
    cost = min(ours) / min(theirs)
    print(f"least against least: {cost:.2f}, at most {BOUND}")
    return 0 if cost <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
