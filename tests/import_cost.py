"""Measure what `import prefect_nanobanana` costs, relative to `import prefect`.

The package is imported by every process that loads any Prefect block. Both are timed in turn, in new
processes, and the median of the ratios is held against the bound: these machines are noisy.
"""

from __future__ import annotations

import resource
import statistics
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
        0 if their median is within the bound.
    """
    for module in ("prefect", "prefect_nanobanana"):
        cpu_seconds(f"import {module}")  # compiles what is not compiled yet
    ratios = [
        cpu_seconds("import prefect_nanobanana") / cpu_seconds("import prefect") for _ in range(ROUNDS)
    ]
    median = statistics.median(ratios)
    print("import prefect_nanobanana / import prefect, CPU time:", *(f"{r:.2f}" for r in ratios))
    print(f"median {median:.2f}, at most {BOUND}")
    return 0 if median <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
