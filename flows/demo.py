"""`make demo`: the command `nanobanana demo`, which leaves what it makes in `.demo/`."""

import os
import sys
from pathlib import Path

HOME = Path(os.environ.get("NANOBANANA_DEMO_HOME", Path(__file__).parents[1] / ".demo")).resolve()
# Importing Prefect makes its home, and nothing may appear in the user's own.
os.environ["PREFECT_HOME"] = str(HOME / "prefect")

from prefect_nanobanana.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", "--home", str(HOME)]))
