"""An empty database of Prefect's, made once per test session and copied for each server.

Making one takes ten seconds and more, most of what a server needs to start.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# pytest-xdist's workers inherit it.
_HOME = Path(os.environ.setdefault("NANOBANANA_PREFECT_DATABASE", tempfile.mkdtemp(prefix="prefect-")))
NAME = "prefect.db"


def put_database(path: Path) -> None:
    """Write an empty database there, if there is none."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (_HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (_HOME / NAME).exists():
            _make(_HOME / "new")
            (_HOME / "new" / NAME).rename(_HOME / NAME)
    shutil.copy(_HOME / NAME, path)


def _make(home: Path) -> None:
    command = [str(Path(sys.executable).with_name("prefect")), "server", "database", "upgrade", "-y"]
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    env.update(PREFECT_HOME=str(home), PREFECT_PROFILES_PATH=str(home / "profiles.toml"))
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=240)
