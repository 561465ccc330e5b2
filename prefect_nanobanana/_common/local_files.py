"""Files on the machine that runs a flow; a run that a worker starts reads those of few folders alone.

Who fills in a form in a browser has no shell on the worker.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prefect.context import FlowRunContext

from prefect_nanobanana._common.addresses import LONGEST_SHOWN, without_signature, without_userinfo
from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana.errors import InvalidInput

FOLDERS_VARIABLE = "PREFECT_NANOBANANA_PROMPTS_FOLDERS"
"""Names the folders, separated as in PATH, that runs which a worker starts may read files from."""


@dataclass(frozen=True)
class LocalFiles:
    """Reads files that a parameter names.

    Attributes:
        parameter: Its name, for errors.
        what: What the files are, for errors.
    """

    parameter: str
    what: str

    def read(self, source: str, most_bytes: int) -> bytes:
        """Read a file, at most so many bytes of it.

        Raises:
            InvalidInput: If it cannot be read, or may not be.
        """
        try:
            path = Path(source).expanduser().resolve()
        except RuntimeError:  # of expanduser, and of links in a circle
            raise self._unreadable(source, "there is no such user or file") from None
        except (OSError, ValueError) as error:
            raise self._unreadable(source, getattr(error, "strerror", None) or "is not a path") from None
        if started_by_worker():
            self._check_folder(source, path)
        try:
            mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                with path.open("rb") as file:
                    return file.read(most_bytes)
        except OSError as error:
            raise self._unreadable(source, error.strerror or type(error).__name__) from None
        # A FIFO would be waited for, and a device may never end.
        kind = "Is a directory" if stat.S_ISDIR(mode) else "it is not a regular file"
        raise self._unreadable(source, kind)

    def _check_folder(self, source: str, path: Path) -> None:
        """Refuse what is not below an allowed folder, in the same words whether it is there or not."""
        named = filter(str.strip, os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep))
        folders = []
        for name in named:
            with suppress(RuntimeError, OSError):  # of nobody's home, and of links in a circle
                folders.append(Path(name.strip()).expanduser().resolve())
        if not any(path.is_relative_to(folder) for folder in folders):
            raise InvalidInput(
                f"{self.parameter}: {_shown(source)} is not below a folder that {self.what} may "
                "be read from: give an s3:// address or a web address, or name its folder in the "
                f"worker's environment variable {FOLDERS_VARIABLE}"
            )

    def _unreadable(self, source: str, why: str) -> InvalidInput:
        return InvalidInput(
            f"{self.parameter}: {_shown(source)} cannot be read ({why}): give a path that exists on the "
            "machine that runs the flow, an s3:// address or a web address"
        )


def started_by_worker() -> bool:
    """Whether this run, or a run above it, was started for a deployment and not by a script.

    Workers and `serve` start the process of a run with this variable, as does everything else in Prefect
    that takes runs from its server (Prefect 3.9, `runner/_starter_engine.py`).
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return "PREFECT__FLOW_RUN_ID" in os.environ or (run is not None and run.deployment_id is not None)


def _shown(source: str) -> str:
    """A path as an error may say it; it may be a signed address that was mistyped."""
    return quoted(without_signature(without_userinfo(source)), LONGEST_SHOWN)[1:-1]
