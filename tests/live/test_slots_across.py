"""The account's slots across real processes, and across the restarts of a Prefect server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prefect_server_process import NO_WEB, PrefectServer
from pydantic import SecretStr

from prefect_nanobanana import NanoBananaCredentials
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = pytest.mark.server
WaitFor = Callable[..., None]

WORK = """
import sys, threading
from prefect_nanobanana.slots import slots_for
account, threads = sys.argv[1], int(sys.argv[2])
slots = slots_for(account, int(sys.argv[3]))

def hold():
    with slots.queue.slot():
        print("holds", flush=True)
        go.wait()

go = threading.Event()
workers = [threading.Thread(target=hold, daemon=True) for _ in range(threads)]
for worker in workers:
    worker.start()
sys.stdin.readline()
go.set()
for worker in workers:
    worker.join()
"""


class Peer:
    """A process that holds slots of an account, until it is told not to, or killed."""

    def __init__(self, server: PrefectServer, account: str, threads: int = 1, limit: int = 1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORK, account, str(threads), str(limit)],
            env={**os.environ, **server.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "holds\n"

    def end(self) -> None:
        self.process.communicate("\n", timeout=60)
        assert self.process.returncode == 0

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@contextmanager
def _holders(server: PrefectServer) -> Iterator[Callable[..., Peer]]:
    with ExitStack() as stack:

        def make(account: str, **settings: Any) -> Peer:
            holder = Peer(server, account, **settings)
            stack.callback(holder.process.kill)
            return holder

        yield make


def _limit(server: PrefectServer, account: str) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"v2/concurrency_limits/nano-banana-{account}")
    return found


def test_slots_outlive_a_restart_of_the_server(tmp_path: Path, wait_for: WaitFor) -> None:
    """Prefect's server forgets its leases then, by default, though not how many it had given.

    Of two processes that hold the account's two slots, one is killed while the server is away. Neither
    is the slot of the other given to somebody else, nor is the dead one's lost.
    """
    with PrefectServer(tmp_path) as server, _holders(server) as make:
        living, dying = make("restart", limit=2), make("restart", limit=2)
        living.wait()
        dying.wait()
        assert _limit(server, "restart")["active_slots"] == 2
        server.stop()
        dying.kill()
        server.start()
        late = make("restart", limit=2, threads=2)
        late.wait()
        assert _limit(server, "restart")["active_slots"] == 2
        # Its second thread must wait for the one who lives.
        living.end()
        late.wait()
        late.end()
        wait_for(lambda: _limit(server, "restart")["active_slots"] == 0)
        # A new database knows of nothing: the limit is made again, and what is held is leased again.
        first = make("emptied", limit=1)
        first.wait()
        server.stop()
        for path in tmp_path.glob("prefect.db*"):
            path.unlink()
        server.start()
        wait_for(
            lambda: (
                "nano-banana-emptied"
                in [each["name"] for each in server.post("v2/concurrency_limits/filter", {})]
            ),
            60,
        )
        first.end()


RUN = """
import sys
from prefect_aws import MinIOCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator
from prefect_nanobanana.flows import generate_images

generator = NanoBananaGenerator(credentials=NanoBananaCredentials.from_env(max_concurrent_requests=2))
login = MinIOCredentials(
    minio_root_user="sandbox",
    minio_root_password="sandbox-secret",
    aws_client_parameters=AwsClientParameters(endpoint_url=sys.argv[1]),
)
bucket = S3Bucket(bucket_name="pictures", credentials=login)
prompts = [f"a cat, number {n}" for n in range(20)]
report = generate_images(prompts=prompts, generator=generator, bucket=bucket, batch="restarted")
print(report.stored)
"""


def test_a_run_gives_its_slots_back_though_the_server_was_restarted_meanwhile(
    tmp_path: Path, sandbox: Sandbox, wait_for: WaitFor
) -> None:
    """The server has forgotten the leases, and no lease was renewed between that and the run's end.

    On a machine so slow that the server is away for longer than leases last, nobody can tell whether it
    has taken them back: then they come back to the next one who waits for them.
    """
    key = SecretStr(sandbox.api_key)
    account = NanoBananaCredentials(api_key=key, base_url=sandbox.base_url).account
    # Long enough for the server to be back before the run ends.
    sandbox.account.limit, sandbox.latency = 2, (4.0, 4.0)
    s3 = LocalS3(tmp_path / "s3")
    with PrefectServer(tmp_path) as server, _holders(server) as make, s3:
        s3.make_bucket("pictures")
        script = subprocess.Popen(
            [sys.executable, "-c", RUN, s3.endpoint_url],
            env={
                **os.environ,
                **server.env,
                "NANO_BANANA_API_KEY": sandbox.api_key,
                "NANO_BANANA_BASE_URL": sandbox.base_url,
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        with script:
            wait_for(lambda: sandbox.account.posts >= 2, 60)
            away = time.monotonic()
            server.stop()
            server.start()
            away = time.monotonic() - away
            output, _ = script.communicate(timeout=200)
        assert (script.returncode, output.splitlines()[-1]) == (0, "20")
        assert sandbox.account.charged == 20
        if away < 25:
            assert _limit(server, account)["active_slots"] == 0
        next_one = make(account, limit=2, threads=2)
        next_one.wait()
        next_one.wait()
        next_one.end()


SCRIPT = """
import os, signal, sys
from prefect import flow
from prefect_nanobanana import NanoBananaCredentials

@flow
def script(kill: bool) -> None:
    credentials = NanoBananaCredentials.from_env()
    with credentials.slots.queue.slot():
        print("holds", flush=True)
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)

script(sys.argv[1] == "kill")
"""


def test_a_script_killed_without_a_server_takes_no_slot_with_it(tmp_path: Path) -> None:
    """Without a server Prefect starts one for each script, which dies with it; the database stays."""
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_PROFILES_PATH": str(tmp_path / "profiles.toml"),
        "NANO_BANANA_API_KEY": "nb_nobody",
        **NO_WEB,
    }
    for last, code in (("kill", -signal.SIGKILL), ("end", 0)):
        output = tmp_path / f"{last}.log"
        with output.open("w") as log:
            script = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, last],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            assert script.wait(120) == code, output.read_text()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)  # its server may have outlived it
        assert "holds" in output.read_text()


POOL = """
import json
from prefect import flow, unmapped
from prefect.task_runners import ProcessPoolTaskRunner
from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator, generate_image

@flow(task_runner=ProcessPoolTaskRunner(max_workers=3))
def pool(prompts):
    credentials = NanoBananaCredentials.from_env(max_concurrent_requests=2)
    generator = NanoBananaGenerator(credentials=credentials)
    return [each.status for each in generate_image.map(prompts, generator=unmapped(generator)).result()]

if __name__ == "__main__":
    print(json.dumps(pool([f"a cat, number {n}" for n in range(12)])))
"""


def test_task_runners_with_processes_share_the_slots(tmp_path: Path, sandbox: Sandbox) -> None:
    """What Dask and Ray do, too: blocks are pickled, tasks run in processes of their own."""
    sandbox.account.limit, sandbox.latency = 2, (0.3, 0.3)
    (tmp_path / "pool.py").write_text(POOL)
    with PrefectServer(tmp_path) as server:
        done = subprocess.run(
            [sys.executable, str(tmp_path / "pool.py")],
            env={
                **os.environ,
                **server.env,
                "NANO_BANANA_API_KEY": sandbox.api_key,
                "NANO_BANANA_BASE_URL": sandbox.base_url,
            },
            capture_output=True,
            text=True,
            timeout=180,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["completed"] * 12
    assert sandbox.account.most_open == 2
    assert sandbox.account.refusals == 0
