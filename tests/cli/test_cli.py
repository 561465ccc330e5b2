"""The command `nanobanana`, as people and scripts use it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_LOGGING_LEVEL

from prefect_nanobanana import RunReport, StorageOptions, __version__
from prefect_nanobanana.cli import main
from prefect_nanobanana.cli._deploy import prefect_file
from prefect_nanobanana.cli._packaged import packaged
from prefect_nanobanana.cli._prefect import quiet_prefect
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *(
        "automations",
        "blocks",
        "credits",
        "demo",
        "deploy",
        "models",
        "pending",
        "plan",
        "resume",
        "run",
    ),
    *("sandbox", "ui"),
]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def account(sandbox: Sandbox, s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of the local servers, in the environment."""
    monkeypatch.setenv("NANO_BANANA_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANO_BANANA_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)


@pytest.fixture
def to(s3: LocalS3, folder: Path) -> list[str]:
    """The words that say where pictures go."""
    return ["--bucket", "pictures", "--folder", folder.name, "--endpoint-url", s3.endpoint_url]


def test_both_ways_to_call_it() -> None:
    for command in (
        [str(Path(sys.executable).with_name("nanobanana"))],
        [sys.executable, "-m", "prefect_nanobanana"],
    ):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == __version__


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_what_it_does(command: str, capsys: Capture) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: nanobanana {command}")
    assert "()" not in out


def test_the_commands_are_these(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    lines = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("│ ")]
    assert [word for word in lines if word in COMMANDS] == COMMANDS


def test_help_needs_neither_boto3_nor_a_server() -> None:
    code = (
        "import sys; from prefect_nanobanana.cli import main; main(['--help']); "
        "sys.exit('boto3' in sys.modules or 'prefect_aws' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nope"], "nope"),
        (["run", "--prompt", "x"], "--bucket"),
        (["run", "--bukcet", "b"], "--bucket"),
        (["run", "--bucket", "b", "--quantity", "many"], "quantity"),
        (["run", "--bucket", "b", "--fail-on", "always"], "fail-on"),
        (["run", "--prompt", "\x1b[31mx", "--bucket", "b", "--mode", "\x1b[31m"], "mode"),
        (["blocks"], "nothing to save"),
        (["automations"], "give --webhook or --notify"),
        (["deploy", "weekly"], "there is no deployment 'weekly': there are prompt-list, in-parts"),
    ],
)
def test_wrong_words_are_said(words: list[str], told: str, capsys: Capture) -> None:
    assert main(words) == 2
    found = capsys.readouterr()
    assert told in found.err
    assert found.out == ""
    assert "\x1b" not in found.err


@pytest.mark.usefixtures("account", "prefect_server")
def test_run_and_resume_for_scripts(
    to: list[str], sandbox: Sandbox, folder: Path, capsys: Capture
) -> None:
    assert main(["plan", "--prompt", "a", "--prompt", "b", *to, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["price"], len(plan["prompts"])) == (2, 2)
    assert not folder.exists()
    assert main(["resume", "b", "--prompt", "a", *to]) == 2
    assert "there is no batch 'b' in s3://pictures/" in capsys.readouterr().err
    assert main(["run", "--prompt", "a", "--prompt", "a nude", "--batch", "b", *to, "--json"]) == 0
    found = capsys.readouterr()
    report = json.loads(found.out)
    assert (report["stored"], report["warnings"], report["credits_used"]) == (1, 1, 2)
    assert report["summary"].startswith("1 stored, 1 warning; 2 credits used")
    assert "2/2" in found.err
    posts = sandbox.account.posts
    assert main(["resume", "b", "--prompt", "a", "--prompt", "a nude", *to, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["credits_reused"] == 2
    assert sandbox.account.posts == posts
    words = ["--prompt", "a nude", *to, "--ask-again", "warnings", "--fail-on", "warning", "--json"]
    assert main(["resume", "b", *words]) == 1
    found = capsys.readouterr()
    assert json.loads(found.out)["warnings"] == 1
    assert "failed: " in found.err
    assert main(["pending", "b", *to, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["waiting"] == 0


class _Hidden(dict[str, bytes]):
    """Pictures that nobody finds yet."""

    def __contains__(self, key: object) -> bool:
        return False

    def get(self, *_: Any) -> Any:
        return None


@pytest.mark.usefixtures("account", "prefect_server")
def test_what_is_pending(
    to: list[str], sandbox: Sandbox, run: Callable[..., RunReport], capsys: Capture
) -> None:
    sandbox.images = hidden = _Hidden()
    assert run("a", storage=StorageOptions(retry_for_seconds=0)).failed == 1
    sandbox.images = dict(hidden)
    capsys.readouterr()
    assert main(["pending", *to]) == 0
    assert capsys.readouterr().out == "1 image copied\n"
    sandbox.images = _Hidden()
    assert run("b", batch="c", storage=StorageOptions(retry_for_seconds=0)).failed == 1
    capsys.readouterr()
    assert main(["pending", "b", *to, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["waiting"] == 0, "of another batch"


@pytest.mark.usefixtures("account")
def test_the_account(sandbox: Sandbox, capsys: Capture) -> None:
    assert main(["credits"]) == 0
    assert capsys.readouterr().out == "100\n"
    assert main(["credits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"credits": 100}
    assert main(["models", "--json"]) == 0
    names = {each["name"] for each in json.loads(capsys.readouterr().out)}
    assert "nano-banana" in names
    assert main(["models"]) == 0
    assert "nano-banana" in capsys.readouterr().out


def test_without_a_key(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NANO_BANANA_API_KEY", "NB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for words in (["credits"], ["run", "--prompt", "x", "--bucket", "b"]):
        assert main(words) == 2
        assert "set the environment variable NANO_BANANA_API_KEY" in capsys.readouterr().err


def test_a_file_of_deployments_with_other_names(capsys: Capture) -> None:
    there = yaml.safe_load(packaged("prefect.yaml", "deployments").read_text())
    assert (
        prefect_file((), "nanobanana", "default", "nanobanana", "Etc/UTC")["deployments"]
        == there["deployments"]
    )
    words = ["--pool", "k8s", "--generator", "art", "--bucket", "b2", "--time-zone", "Europe/Berlin"]
    assert main(["deploy", "daily", "--show", *words]) == 0
    (daily,) = yaml.safe_load(capsys.readouterr().out)["deployments"]
    assert daily["work_pool"]["name"] == "k8s"
    slugs = {
        name: daily["parameters"][name]["$ref"]["block_document_slug"]
        for name in ("generator", "bucket")
    }
    assert slugs == {"generator": "nano-banana-generator/art", "bucket": "s3-bucket/b2"}
    assert daily["parameters"]["time_zone"] == daily["schedules"][0]["timezone"] == "Europe/Berlin"


def test_prefect_is_quiet_unless_somebody_wants_it_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    before = PREFECT_LOGGING_LEVEL.value()
    monkeypatch.delenv("PREFECT_LOGGING_LEVEL", raising=False)
    with quiet_prefect():
        assert PREFECT_LOGGING_LEVEL.value() == "WARNING"
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", before)
    with quiet_prefect():
        assert PREFECT_LOGGING_LEVEL.value() == before
    assert PREFECT_LOGGING_LEVEL.value() == before


def test_an_error_that_nobody_expects_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("prefect_nanobanana.cli._account.NanoBananaCredentials.from_env", broken)
    with pytest.raises(ZeroDivisionError):
        main(["credits"])
