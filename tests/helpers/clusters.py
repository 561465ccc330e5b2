"""Real clusters of Dask and Ray on this machine, with two processes each.

Other tests collect these without having either: so all of it is imported where it is used.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Else Ray tells of its use, and takes the machine's own address even if it is given 127.0.0.1.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_AUTH_MODE="disabled",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_DEDUP_LOGS="0",
)


@contextmanager
def dask() -> Iterator[Any]:
    """A task runner of Dask."""
    from distributed import LocalCluster
    from prefect_dask import DaskTaskRunner

    with LocalCluster(
        n_workers=2, threads_per_worker=4, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield DaskTaskRunner(address=cluster.scheduler_address)


@contextmanager
def ray() -> Iterator[Any]:
    """A task runner of Ray; it uses the instance that this process has."""
    import ray
    from prefect_ray import RayTaskRunner

    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        # Without this file Ray asks clouds' metadata services where it runs, whether it tells or not.
        (Path(home) / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n", "utf-8")
        patch.setenv("HOME", home)
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            namespace="prefect",
            _node_ip_address="127.0.0.1",
        )
        try:
            yield RayTaskRunner()
        finally:
            ray.shutdown()


def processes_connected_to(port: int) -> set[int]:
    """The ids of the processes, other than this one, that have a connection to a port open."""
    import psutil

    found = psutil.net_connections("tcp")
    ids = {each.pid for each in found if each.raddr and each.raddr.port == port}
    return {id_ for id_ in ids if id_ not in (None, os.getpid())}


def processes_of_workers() -> set[int]:
    """The ids of the processes of the cluster that run tasks: Dask's are spawned, Ray's named so."""
    import psutil

    ours = psutil.Process(os.getpid()).children(recursive=True)
    lines = {each.pid: " ".join(each.cmdline()) for each in ours if each.is_running()}
    # Ray names its own agents alike: without them the whole node would die.
    return {
        id_
        for id_, line in lines.items()
        if "spawn_main" in line or (line.startswith("ray::") and "Agent" not in line)
    }
