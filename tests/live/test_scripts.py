"""What people type: the demo and the command line, as processes of their own."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from kept_private import only_for_its_own_page, only_the_owners, processes_of
from prefect_aws import S3Bucket

from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

ROOT = Path(__file__).parents[2]


def _environment(home: Path, **more: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_HOME": str(home / "prefect")}
    return {**env, **quiet, "HOME": str(home), **more}


def test_the_demo(tmp_path: Path) -> None:
    """Nothing of Prefect's in the home folder before, and nothing there afterwards."""
    home, demo = tmp_path / "home", tmp_path / "demo"
    home.mkdir()
    env = _environment(home, NANOBANANA_DEMO_HOME=str(demo), NANOBANANA_DEMO_LATENCY="0.05")
    del env["PREFECT_HOME"], env["PREFECT_SERVER_ANALYTICS_ENABLED"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "flows/demo.py")],
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "26 stored, 2 warnings; 37 credits used, 63 left" in done.stdout
    assert "28/28" in done.stdout
    page = Path(done.stdout.strip().splitlines()[-1].partition("Open the gallery: ")[2])
    assert page.is_relative_to(demo)
    text = page.read_text("utf-8")
    assert text.count("data:image/webp") == 31
    manifest = (page.parent / "manifest.jsonl").read_text("utf-8").splitlines()
    assert sum(len(json.loads(row).get("images", [])) for row in manifest) == 31
    assert list(home.iterdir()) == []


@pytest.mark.server
def test_what_the_demo_starts_is_for_its_user_alone(
    tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    demo = tmp_path / "demo"
    demo.mkdir(mode=0o755)  # as earlier versions made it
    env = _environment(tmp_path, NANOBANANA_DEMO_HOME=str(demo), NANOBANANA_DEMO_LATENCY="2")
    command = [sys.executable, str(ROOT / "flows/demo.py")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:

        def servers() -> list[str]:
            lines = " ".join(processes_of(demo / "prefect"))
            ports = re.findall(r"prefect.server.api.server:create_app.* --port (\d+)", lines)
            return [f"http://127.0.0.1:{port}" for port in ports]

        def answers() -> bool:
            try:
                return httpx.get(f"{servers()[0]}/api/health").status_code == 200
            except (IndexError, httpx.HTTPError):
                return False

        try:
            wait_for(answers, 200)
            only_for_its_own_page(servers()[0])
            assert only_the_owners(demo) > 5
        finally:
            process.send_signal(signal.SIGINT)  # so that it ends what it has started
    wait_for(lambda: processes_of(demo) == [], 60)


@pytest.mark.parametrize(("target", "script"), [("demo", "flows/demo.py"), ("ui", "deployments/ui.py")])
def test_make_runs_the_scripts_that_are_tested(target: str, script: str) -> None:
    make = ["make", "--no-print-directory", "-n", target]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith(f"bin/python {script}")


def test_the_demo_notices_what_does_not_add_up(tmp_path: Path) -> None:
    """Exit code 0 only if all adds up: a picture changed on disk, a credit too many."""
    code = f"""
import hashlib, json
from pathlib import Path
from prefect_nanobanana.cli import _demo as demo
from prefect_nanobanana.models import *
folder = Path({str(tmp_path)!r})
(folder / "b").mkdir()
(folder / "x.png").write_bytes(b"changed")
row = {{"images": [{{"key": "x.png"}}], "generation": {{"image_urls": ["http://127.0.0.1:9/files/x.png"]}}}}
(folder / "b/manifest.jsonl").write_text(json.dumps(row) + "\\n")
report = RunReport(batch="b", prompts=1, stored=0, warnings=0, failed=1, unknown=0, skipped=0, images=1,
    credits_used=1, credits_reused=0, credits_without_image=0, remaining_credits=9, balance_before=10,
    balance_after=9, manifest_uri=None, gallery_uri=None, outcomes=())
books = {{"charged": 2, "images": {{"/files/x.png": hashlib.sha256(b"served").hexdigest()}}}}
print(*demo.check(report, books, folder), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "reported 1 credits, charged 2",
        "1 images were served, 1 stored, and they differ",
        "not every prompt was stored or refused",
    ]


@pytest.fixture
def prompt_list(
    sandbox: Sandbox, s3: LocalS3, monkeypatch: pytest.MonkeyPatch, prefect_server: None
) -> Any:
    """`flows/prompt_list.py` in this process, which saves the start of another Prefect server."""
    monkeypatch.setenv("NANO_BANANA_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANO_BANANA_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    return runpy.run_path(str(ROOT / "flows/prompt_list.py"))["main"]


def test_a_list_from_the_command_line(
    prompt_list: Any,
    s3: LocalS3,
    bucket: S3Bucket,
    folder: Path,
    sandbox: Sandbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt,quantity\na cat,2\na bloody sword,\n")
    arguments = ["--bucket", "pictures", "--folder", folder.name, "--endpoint-url", s3.endpoint_url]
    assert prompt_list([str(path), "--prompt", "a dog", "--batch", "b", "--plan", *arguments]) == 0
    assert "3 prompts: 3 new; 4 credits; 100 in the account, 96 after" in capsys.readouterr().out
    assert (sandbox.account.posts, folder.exists()) == (0, False)
    assert prompt_list([str(path), "--prompt", "a dog", "--batch", "b", *arguments]) == 0
    out = capsys.readouterr().out
    assert "2 stored, 1 warning; 4 credits used, 96 left" in out
    assert len(list((folder / "b/images").iterdir())) == 3
    arguments += ["--budget", "1/day"]
    assert prompt_list(["--prompt", "1", "--prompt", "2", "--batch", "c", *arguments]) == 0
    assert "1 stored, 1 skipped; 1 credit used" in capsys.readouterr().out
    assert prompt_list(["--prompt", "1", "--budget", "1/year", *arguments[:-2]]) == 2
    assert "write it as 500/month" in capsys.readouterr().err
    del arguments[-2:]
    for wrong in (["--limit", "1"], ["--matrix", "a=1", "--matrix", "a=2"], ["--matrix", "a"]):
        assert prompt_list(["--prompt", "{a}", *wrong, *arguments]) == 2
        assert "nothing was spent" in capsys.readouterr().err
    made = ["--template", "{a}{b}", "--matrix", "a=x,y", "--matrix", "b=1,2", "--exclude", "a=x,b=2"]
    assert prompt_list([*made, "--limit", "2", "--plan", *arguments]) == 0
    assert "2 prompts: 2 new" in capsys.readouterr().out
    sandbox.faults.queue("failed")
    assert prompt_list(["--prompt", "x", *arguments]) == 1
    assert "1 failed" in capsys.readouterr().err
    posts = sandbox.account.posts
    assert prompt_list(["nope.csv", *arguments]) == 2
    assert "nothing was spent: prompts_from: nope.csv cannot be read" in capsys.readouterr().err
    assert prompt_list(["--prompt", "x", "--quantity", "9", *arguments]) == 2
    assert sandbox.account.posts == posts


def test_without_a_key(
    prompt_list: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NANO_BANANA_API_KEY")
    assert prompt_list(["--prompt", "x", "--bucket", "b"]) == 2
    assert "set the environment variable NANO_BANANA_API_KEY" in capsys.readouterr().err


def test_help(prompt_list: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert prompt_list(["--help"]) == 0
    assert "--max-credits" in capsys.readouterr().out
