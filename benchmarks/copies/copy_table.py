"""What came of the copies: tables, and what is required of ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

SMALL, LARGE = 1.5, 20.0
LEAST_OF_LIMIT = {SMALL: 0.8, LARGE: 0.75}
LEAST_BY_SCRIPT = 1.5
LEAST_BY_SCRIPT_WITH_WAIT = 6.0
MOST_PEAK_MB = 100.0
NAMES = {
    "a": "(a) sequential requests + boto3",
    "b": "(b) the same, 16 threads",
    "c": "(c) `rclone copyurl`, 16 transfers",
    "d": "(d) our copy",
    "d-": "(d) from a host that says no MD5",
    "e": "(e) our whole flow",
    "f": "(f) limit: download alone",
    "g": "(g) limit: upload alone",
    "f0": "(f) through a proxy without a wait",
    "g0": "(g) through a proxy without a wait",
}


@dataclass(frozen=True)
class Cell:
    """A server, a wait before each answer, and a size: what one table is about."""

    store: str
    wait: float
    megabytes: float

    @property
    def name(self) -> str:
        """As `--only` names it."""
        return f"{self.store}-{self.wait * 1000:g}-{self.megabytes:g}"

    @property
    def title(self) -> str:
        """In words."""
        wait = f", {self.wait * 1000:g} ms added to every answer" if self.wait else ""
        return f"{self.store}{wait}, images of {self.megabytes:g} MB"


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        cell: Where.
        variant: What.
        turn: In which round.
        images: How many images.
        size: Their bytes.
        seconds: How long it took.
        cpu_seconds: Of the process and its children.
        peak: Bytes of memory above those of the idle process.
    """

    cell: Cell
    variant: str
    turn: int
    images: int
    size: int
    seconds: float
    cpu_seconds: float
    peak: int

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


class Results:
    """All runs of one cell."""

    def __init__(self, cell: Cell, runs: Iterable[Measured]) -> None:
        self.cell = cell
        self._runs = [run for run in runs if run.cell == cell]
        self.variants = [name for name in NAMES if self.of(name)]

    def of(self, variant: str) -> list[Measured]:
        """The runs of one variant, by round."""
        return sorted((run for run in self._runs if run.variant == variant), key=lambda run: run.turn)

    def ratios(self, variant: str, *others: str) -> list[float]:
        """In each round, a variant's rate by that of the slowest of others; empty if one is missing."""
        mine, *theirs = [{run.turn: run.rate for run in self.of(name)} for name in (variant, *others)]
        turns = [turn for turn in mine if all(turn in column for column in theirs)]
        return [mine[turn] / min(column[turn] for column in theirs) for turn in turns]

    def of_both(self, variant: str) -> list[float]:
        """In each round, a variant's rate by that of downloading each image and then uploading it."""
        rates = [{run.turn: run.rate for run in self.of(name)} for name in (variant, "f", "g")]
        mine, down, up = rates
        turns = [turn for turn in mine if turn in down and turn in up]
        return [mine[turn] * (1 / down[turn] + 1 / up[turn]) for turn in turns]


def table(results: Results) -> str:
    """One cell as markdown."""
    lines = [
        f"### {results.cell.title}\n",
        "| variant | images | images/s | range | MB/s | CPU ms per image | peak MB above idle "
        "| of the smaller limit | of both limits | by the script |",
        "| --- |" + " ---: |" * 9,
    ]
    for variant in results.variants:
        runs = results.of(variant)
        rates = [run.rate for run in runs]
        values = [
            NAMES[variant],
            str(runs[0].images),
            f"{median(rates):.1f}",
            f"{min(rates):.1f} to {max(rates):.1f}",
            f"{median(run.size / run.seconds for run in runs) / 1e6:.0f}",
            f"{median(run.cpu_seconds / run.images for run in runs) * 1000:.1f}",
            f"{max(run.peak for run in runs) / 1e6:.0f}",
            _shown(results.ratios(variant, "f", "g")),
            _shown(results.of_both(variant)),
            _shown(results.ratios(variant, "a")),
        ]
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines)


def _shown(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f}" if ratios else ""


@dataclass(frozen=True)
class Requirement:
    """What must hold, and what was measured."""

    text: str
    measured: float
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def __str__(self) -> str:
        bound = f"at {'most' if self.at_most else 'least'} {self.bound:g}"
        return f"{'met' if self.met else 'NOT MET'}: {self.text}: {self.measured:.2f} ({bound})"


def requirements(results: Results) -> list[Requirement]:
    """What must hold in one cell."""
    cell, found = results.cell, []
    of_limit, by_script = results.ratios("d", "f", "g"), results.ratios("d", "a")
    if cell.wait == 0 and of_limit:
        bound = LEAST_OF_LIMIT[cell.megabytes]
        text = f"{cell.title}: our copy by the smaller limit"
        found.append(Requirement(text, median(of_limit), bound))
    if by_script and (cell.wait == 0 or cell.megabytes == SMALL):
        bound = LEAST_BY_SCRIPT_WITH_WAIT if cell.wait else LEAST_BY_SCRIPT
        text = f"{cell.title}: our copy by the sequential script"
        found.append(Requirement(text, median(by_script), bound))
    return found


def peak(store: str, runs: Sequence[Measured]) -> Requirement:
    """What must hold of the memory of copies of large images, all at once."""
    text = f"{store}: peak memory of {runs[0].images} copies of {LARGE:g} MB at once, MB above idle"
    return Requirement(text, max(run.peak for run in runs) / 1e6, MOST_PEAK_MB, at_most=True)


def beside_rclone(results: Results) -> str | None:
    """Where rclone is ahead of our copy, and by how much."""
    ratios = results.ratios("c", "d")
    if not ratios or median(ratios) <= 1:
        return None
    theirs, ours = (
        median(run.cpu_seconds / run.images for run in results.of(variant)) * 1000 for variant in "cd"
    )
    return (
        f"{results.cell.title}: {median(ratios):.2f} times as fast as our copy, with {theirs:.1f} ms of "
        f"CPU per image to our {ours:.1f} ms"
    )
