"""Tell people what needs them: the command `nanobanana automations`."""

import sys

from prefect_nanobanana.cli import main

if __name__ == "__main__":
    sys.exit(main(["automations", *sys.argv[1:]]))
