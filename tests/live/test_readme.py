"""Every command and every piece of code in the README is run, so that none of them is a promise only."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prefect_server_process import PrefectServer

from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = pytest.mark.server
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.strip().splitlines()
]
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

SAVE_BUCKET = """
import os
from prefect_aws import MinIOCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
credentials = MinIOCredentials(
    minio_root_user="sandbox", minio_root_password="sandbox-secret",
    aws_client_parameters=AwsClientParameters(endpoint_url=os.environ["ENDPOINT"]),
)
credentials.save("store")
S3Bucket(bucket_name="pictures", bucket_folder="readme", credentials=credentials).save("nanobanana")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as running:
        yield running


def test_the_readme_in_the_order_of_a_reader(
    server: PrefectServer,
    sandbox: Sandbox,
    s3: LocalS3,
    tmp_path: Path,
    wait_for: Callable[..., None],
) -> None:
    left: list[str] = list(COMMANDS)

    def next_command(start: str) -> str:
        (command,) = [c for c in left if c.startswith(start)]
        left.remove(command)
        return command

    # Its script is run by test_scripts.py, which the next command, CI's first, runs in a fresh clone.
    next_command("make demo")
    assert "step make test " in (ROOT / ".ci/run").read_text("utf-8")
    next_command("make test")

    server.env.update(
        NANO_BANANA_API_KEY=sandbox.api_key,
        NANO_BANANA_BASE_URL=sandbox.base_url,
        ENDPOINT=s3.endpoint_url,
        AWS_ACCESS_KEY_ID=s3.access_key,
        AWS_SECRET_ACCESS_KEY=s3.secret_key,
        AWS_ENDPOINT_URL_S3=s3.endpoint_url,
        PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    )
    command = next_command(".venv/bin/python -m prefect_nanobanana.sandbox")
    with subprocess.Popen(
        command.replace("8765", "0").replace(".venv/bin/python", sys.executable).split(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip().partition("=")[2]
        assert httpx.get(f"{url}/models").status_code == 200
        process.terminate()

    # The live command, with the sandbox in the place of the service: its list has 37 credits' worth.
    command = next_command("NANO_BANANA_API_KEY=nb_... .venv")
    typed = command.replace("nb_...", sandbox.api_key).replace("my-bucket", "pictures")
    typed = typed.replace(".venv/bin/python", sys.executable)
    done = _shell(server, typed, cwd=ROOT)
    assert "26 stored, 2 warnings; 37 credits used, 63 left" in done

    _install(next_command("pip install ."), tmp_path)
    assert "Nano Banana Generator" in _shell(server, next_command("prefect block register"))

    # Blocks, as printed; then the code on the first screen, and the flow of the reader's own.
    save, first, tasks, job, pending = (
        next(code for code in CODE if mark in code)
        for mark in (
            "from_env()",
            "report = generate_images",
            "def cover",
            ".trigger(",
            "= copy_pending(",
        )
    )
    server.python(SAVE_BUCKET)
    server.python(save)
    assert "2 stored, 2 credits used" in server.python(first)
    # As printed, it trusts no host to be asked over plain http, which is all that the sandbox speaks.
    sandbox.url_style = "data"
    assert "covers/Dune" in server.python(tasks + "\nprint(cover('Dune').key)")
    sandbox.url_style = "absolute"
    assert "completed" in server.python(job)
    assert "0 images copied, 0 lost" in server.python(pending)
    assert len(CODE) == 5

    command = next_command("NANO_BANANA_API_KEY=nb_... python deployments/blocks.py")
    typed = command.replace("nb_...", sandbox.api_key).replace("my-bucket", "pictures")
    assert "saved s3-bucket/nanobanana" in _shell(server, typed, cwd=ROOT)
    _shell(server, next_command("prefect work-pool create"))
    _shell(server, next_command("prefect deploy"), cwd=ROOT)
    charged = sandbox.account.charged
    _shell(server, "prefect deployment run generate_images/prompt-list")
    with server.process(*next_command("prefect worker start").split()[1:]):
        wait_for(lambda: sandbox.account.charged == charged + 2, 120)
    assert not left, f"commands of the README that no test runs: {left}"


def _shell(server: PrefectServer, command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, **server.env},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _install(command: str, tmp_path: Path) -> None:
    """`pip install .` in an empty environment, but for the dependencies, which are here already.

    Fetching those again would need the network; that they resolve is shown by `make lock`.
    """
    assert command == "pip install ."
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "-q"]
    site = next(path for path in sys.path if path.endswith("site-packages"))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], site])}
    subprocess.run(
        [python, "-m", "pip", "install", *offline, "--target", tmp_path / "installed", ROOT],
        check=True,
        env=env,
    )
    package = tmp_path / "installed/prefect_nanobanana"
    assert (package / "py.typed").exists()
    for name in ("gallery.html.j2", "gallery_card.html.j2", "gallery.css", "gallery.js"):
        assert (package / "report/templates" / name).exists()
    assert (package / "sandbox/server.py").exists()
    metadata = next((tmp_path / "installed").glob("*.dist-info"))
    assert "prefect.collections" in (metadata / "entry_points.txt").read_text()
