"""Run the main job from the command line, as `nanobanana run` does; with `--plan`, as `nanobanana plan`.

NANO_BANANA_API_KEY=nb_... python flows/prompt_list.py flows/prompts/postcards.csv --bucket my-bucket
"""

import sys

from prefect_nanobanana import cli


def main(words: list[str]) -> int:
    """Run the main job, or plan it; returns the exit code."""
    command = "plan" if "--plan" in words else "run"
    return cli.main([command, *(word for word in words if word != "--plan")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
