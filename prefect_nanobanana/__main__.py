"""`python -m prefect_nanobanana`: the same as the command `nanobanana`."""

import sys

from prefect_nanobanana.cli import main

if __name__ == "__main__":
    sys.exit(main())
