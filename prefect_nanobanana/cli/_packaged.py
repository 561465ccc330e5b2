"""Files of the repository that are in the wheel, too."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def packaged(name: str, folder: str) -> Path:
    """Where a file is: beside this module in an installed package, else in the repository.

    Args:
        name: Its name.
        folder: Its folder in the repository.
    """
    beside = HERE / name
    return beside if beside.exists() else HERE.parents[1] / folder / name
