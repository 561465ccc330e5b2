"""`make ui`: the command `nanobanana ui`, which leaves what it makes in `.ui/`."""

import os
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[1] / ".ui"
# Importing Prefect makes its home, and nothing may appear in the user's own.
os.environ.setdefault("PREFECT_HOME", str(HOME))

from prefect_nanobanana.cli import main

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(["ui", *([] if "--home" in words else ["--home", str(HOME)]), *words]))
