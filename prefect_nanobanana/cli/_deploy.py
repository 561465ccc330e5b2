"""`nanobanana deploy`: the deployments, in a work pool of the Prefect server in use."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound

from prefect_nanobanana.cli._packaged import packaged
from prefect_nanobanana.errors import InvalidInput

POOL = "nanobanana"


def deploy(
    *names: str,
    pool: str = POOL,
    generator: str = "default",
    bucket: str = "nanobanana",
    time_zone: str = "Etc/UTC",
    show: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Deploy the flows, and create the work pool if there is none of that name.

    Schedules are those of the file; what was changed in Prefect's UI is set back. To keep a file of your
    own, have it shown, change it, and use: prefect deploy --all --prefect-file FILE

    Args:
        names: Which deployments, as daily; by default all.
        pool: The work pool.
        generator: The name of the Nano Banana Generator block.
        bucket: The name of the S3 Bucket block.
        time_zone: Of the schedules.
        show: Print the file, and deploy nothing.
    """
    file = prefect_file(names, pool, generator, bucket, time_zone)
    if show:
        print(yaml.safe_dump(file, sort_keys=False, allow_unicode=True, width=100), end="")
        return 0
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
            print(f"created the work pool {pool}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(yaml.safe_dump(file, allow_unicode=True), "utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        done = subprocess.run([*command, "--prefect-file", str(path)], cwd=folder, check=False)
    if done.returncode:
        return 1
    print(f"Now start a worker: prefect worker start --pool {pool}")
    return 0


def prefect_file(
    names: tuple[str, ...], pool: str, generator: str, bucket: str, time_zone: str
) -> dict[str, Any]:
    """The file of deployments, with other names in it.

    Raises:
        InvalidInput: If there is no deployment of a name.
    """
    text = packaged("prefect.yaml", "deployments").read_text("utf-8")
    file: dict[str, Any] = yaml.safe_load(text)
    del file["definitions"]  # of anchors, which are resolved by now
    known = [each["name"] for each in file["deployments"]]
    for name in names:
        if name not in known:
            raise InvalidInput(f"there is no deployment {name!r}: there are {', '.join(known)}")
    chosen = [each for each in file["deployments"] if not names or each["name"] in names]
    for each in chosen:
        each["work_pool"]["name"] = pool
        parameters = each.get("parameters", {})
        for block, slug in (
            ("generator", f"nano-banana-generator/{generator}"),
            ("bucket", f"s3-bucket/{bucket}"),
        ):
            if block in parameters:
                parameters[block] = {"$ref": {"block_document_slug": slug}}
        if "time_zone" in parameters:
            parameters["time_zone"] = time_zone
        for schedule in each.get("schedules", []):
            schedule["timezone"] = time_zone
    return {**file, "deployments": chosen}
