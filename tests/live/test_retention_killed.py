"""Policies, applied by a process that is killed at each step: nothing is gone without a line."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from aged import age, decide, refresh, rows
from killing import Killer, ended_well, start
from servers import FaultyS3

from prefect_nanobanana import NanoBananaGenerator, RetentionPolicy
from prefect_nanobanana.flows import apply_retention, generate_images
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]
STEPS = 60


@pytest.mark.timeout(900)
@pytest.mark.parametrize("action", ["move", "delete"])
def test_killed_at_every_step_and_applied_again(
    action: Any,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    s3: LocalS3,
    make_bucket: Any,
    zygote: subprocess.Popen[str],
    tmp_path: Path,
) -> None:
    bucket = make_bucket()
    folder = s3.folder / bucket.bucket_name / bucket.bucket_folder
    generate_images(prompts=["a", "b", "c"], generator=generator, bucket=bucket, batch="b")
    decide(folder / "b", a=False, b=False, c=True)
    shutil.copytree(folder, tmp_path / "before")
    posts, ends = sandbox.account.posts, list[str]()
    policy = RetentionPolicy(action=action, after_days=1)
    for step in range(1, STEPS + 1):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "before", folder)
        age(s3, folder, 40)
        images = {path.name: path.read_bytes() for path in folder.glob("b/images/*")}
        killer = Killer(step, "after")
        with FaultyS3(s3.endpoint_url) as store:
            store.fault, store.after = killer, killer.after
            behind = make_bucket(endpoint_url=store.url, bucket_folder=bucket.bucket_folder)
            settings = {
                "policies": [policy.model_dump(mode="json")],
                "bucket": behind.model_dump(mode="json", context={"include_secrets": True}),
            }
            killer.arm(start(zygote, settings))
            ended_well(zygote)
            time.sleep(0.05)
        _holds(folder, images, action)
        refresh(s3)
        apply_retention(bucket=bucket, policies=[policy], dry_run=False)
        left = {path.name for path in folder.glob("b/images/*")}
        assert len(left) == 1
        _holds(folder, images, action)
        gone = [row for row in rows(folder / "b") if row["removed_at"]]
        assert {row["key"].rpartition("/")[2] for row in gone} == set(images) - left
        ends.append(f"{step}: {'killed' if killer.killed else 'finished'}")
        if not killer.killed:
            break
    else:
        pytest.fail(f"{STEPS} steps were not enough: raise STEPS. {ends}")
    assert len(ends) > 8, ends
    again = generate_images(prompts=["a", "b", "c"], generator=generator, bucket=bucket, batch="b")
    assert (again.stored, sandbox.account.posts) == (3, posts), "nothing is paid again"


def _holds(folder: Path, images: dict[str, bytes], action: str) -> None:
    """Whatever has happened: what is gone has a line, and if it was moved, it is there."""
    file = folder / "b/removed.jsonl"
    lines = (
        {row["key"].rpartition("/")[2]: row for row in rows(folder / "b", file.name)}
        if file.exists()
        else {}
    )
    for name, content in images.items():
        path = folder / "b/images" / name
        if path.exists():
            assert path.read_bytes() == content
            continue
        assert lines[name]["action"] == {"move": "moved", "delete": "deleted"}[action]
        if action == "move":
            assert (folder / "archive/b/moved" / name).read_bytes() == content
    assert len(list((folder / "b/records").iterdir())) == len(images)
