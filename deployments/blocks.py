"""Save the blocks that `deployments/prefect.yaml` names: the command `nanobanana blocks`."""

import sys

from prefect_nanobanana.cli import main

if __name__ == "__main__":
    sys.exit(main(["blocks", *sys.argv[1:]]))
