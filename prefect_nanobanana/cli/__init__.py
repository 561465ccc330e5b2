"""The command `nanobanana`: the main job, blocks, deployments and local servers from a terminal."""

from prefect_nanobanana.cli._app import main

__all__ = ["main"]
