"""The command line: which commands there are. Each is imported only when it is used.

It is made with cyclopts, as Prefect's own command line is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import cyclopts

from prefect_nanobanana._version import __version__
from prefect_nanobanana.cli._outcome import ended, print_error

COULD_NOT_START = 2
STOPPED = 130

app = cyclopts.App(
    name="nanobanana",
    help="Prefect and the Nano Banana image API: have pictures made of lists of prompts, and keep "
    "them in S3. The API key is read from NANO_BANANA_API_KEY or NB_API_KEY, the API's address from "
    "NANO_BANANA_BASE_URL if it is set. S3 credentials: environment, AWS profile or role.",
    version=__version__,
    help_flags=["--help", "-h"],
)
_COMMANDS = (
    ("_run:run", "run", "Make pictures of a list of prompts, copy them to S3, and report the credits."),
    ("_run:plan", "plan", "Say what a run would cost, prompt by prompt, and spend nothing."),
    ("_run:resume", "resume", "Go on with a batch that is there: what was paid is not paid again."),
    (
        "_run:pending",
        "pending",
        "Fetch pictures that were paid for and are not in S3 yet; costs no credits.",
    ),
    ("_account:models", "models", "Say which models there are, and what they cost."),
    ("_account:credits", "credits", "Say what the account has left."),
    ("_blocks:blocks", "blocks", "Save the blocks that the deployments name."),
    ("_deploy:deploy", "deploy", "Deploy the flows to the Prefect server in use."),
    ("_automations:automations", "automations", "Have Prefect tell people what needs them."),
    ("_servers:sandbox", "sandbox", "Start a local Nano Banana server: no account needed."),
    ("_servers:demo", "demo", "The main job on this machine alone: no account needed."),
    ("_servers:ui", "ui", "Start Prefect's UI on this machine, with everything deployed."),
)
for _target, _name, _help in _COMMANDS:
    app.command(f"prefect_nanobanana.cli.{_target}", name=_name, help=_help)
app.register_install_completion_command()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Its words; by default those of this process.

    Returns:
        0 if all went well, 1 if a run failed, 2 if nothing could be begun, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        found = app(
            words, exit_on_error=False, print_error=False, result_action="return_value", console=None
        )
    except cyclopts.CycloptsError as error:
        print_error(f"{error}\nTry: nanobanana {' '.join(words[:1])} --help".replace("  ", " "))
        return COULD_NOT_START
    except KeyboardInterrupt as error:
        print_error(" ".join(getattr(error, "__notes__", ["stopped: nothing was asked"])))
        return STOPPED
    except Exception as error:
        return ended(error)
    return found if isinstance(found, int) else 0
