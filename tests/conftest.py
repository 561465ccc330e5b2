"""Fixtures: a guard, a Prefect server, a Nano Banana server, a real S3 server."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import certifi
import pytest

# All of this must be set before Prefect and boto3 are imported.
SCRATCH = Path(tempfile.mkdtemp(prefix="nanobanana-tests-"))
GUARD = Path(__file__).parent / "guard"
# pytest-xdist's workers, and processes of the tests, inherit it: one report for the whole suite.
REPORT = Path(os.environ.setdefault("NANOBANANA_GUARD_REPORT", str(SCRATCH / "left-the-machine.txt")))
os.environ.update(
    PREFECT_HOME=str(SCRATCH / "prefect"),
    PREFECT_PROFILES_PATH=str(SCRATCH / "profiles.toml"),
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="180",
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore",
    PREFECT_LOGGING_TO_API_BATCH_INTERVAL="0.5",
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="true",
    AWS_EC2_METADATA_DISABLED="true",
    AWS_CONFIG_FILE=os.devnull,
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    PYTHONPATH=os.pathsep.join(filter(None, [str(GUARD), os.environ.get("PYTHONPATH")])),
)
# For each flow run Prefect loads all certificates that it is given anew: 30 ms of CPU, of one none.
ONE_CERTIFICATE = SCRATCH / "one.pem"
END = "-----END CERTIFICATE-----\n"
ONE_CERTIFICATE.write_text(Path(certifi.where()).read_text("utf-8").partition(END)[0] + END, "utf-8")
os.environ["PREFECT_API_SSL_CERT_FILE"] = str(ONE_CERTIFICATE)
for name in list(os.environ):
    ours = name.startswith(("NANO_BANANA_", "NB_API_")) or name in ("PREFECT_API_URL", "PREFECT_API_KEY")
    if ours or name.lower().endswith("_proxy") or name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        del os.environ[name]
sys.path.insert(0, str(GUARD))

import sitecustomize  # noqa: E402

if sitecustomize.__file__ and Path(sitecustomize.__file__).parent != GUARD:
    # The interpreter had one of its own, loaded before us.
    del sys.modules["sitecustomize"]
    import sitecustomize
else:
    sys.addaudithook(sitecustomize.hook)

import httpx  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402
from prefect.settings import (  # noqa: E402
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from prefect.testing import utilities  # noqa: E402
from prefect.testing.utilities import prefect_test_harness  # noqa: E402
from prefect_aws import MinIOCredentials, S3Bucket  # noqa: E402
from prefect_aws.client_parameters import AwsClientParameters  # noqa: E402
from prefect_database import put_database  # noqa: E402
from pydantic import SecretStr  # noqa: E402

from prefect_nanobanana import (  # noqa: E402
    NanoBananaCredentials,
    NanoBananaGenerator,
    Plan,
    RunFailed,
    RunReport,
)
from prefect_nanobanana._common.backoff import FIRST_DELAY_SECONDS  # noqa: E402
from prefect_nanobanana.batch._timing import TIMING, Timing  # noqa: E402
from prefect_nanobanana.client._timings import TIMINGS, Timings  # noqa: E402
from prefect_nanobanana.flows import generate_images, plan_images  # noqa: E402
from prefect_nanobanana.sandbox import Sandbox  # noqa: E402
from prefect_nanobanana.sandbox.s3 import LocalS3  # noqa: E402
from prefect_nanobanana.slots import _account as slots  # noqa: E402

pytest_plugins = [
    "prefect_nanobanana.sandbox.fixtures",
    "pytester",
    "killing",
    "deployed",
    "clients",
    "earlier",
]
BUCKET = "pictures"


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        print("\nIn CI no test may be skipped.", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if REPORT.exists():
        print(f"\nPackets were about to leave this machine:\n{REPORT.read_text()}", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server of the session's own; it takes 16 s and more to start."""
    with harness(), quick():
        yield


@contextmanager
def harness() -> Iterator[None]:
    """Prefect's own, on a database that was made before."""
    folder = Path(tempfile.mkdtemp())
    put_database(folder / "prefect-test.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilities, "mkdtemp", lambda: str(folder))
        with prefect_test_harness(server_startup_timeout=180):
            yield


QUICK_CLIENT = Timings(
    first_poll=0.05, poll_every=0.1, close_poll=0.05, settle_for=0.3, first_delay=0.01
)


@contextmanager
def quick() -> Iterator[None]:
    """Wait for nothing but servers, and let Prefect's heartbeats be: waiting shows nothing.

    A flow with heartbeats ends up to a second late: their thread sleeps for whole seconds. Nor are slots
    shared with other processes, which takes requests to the server: test_worker.py does that, and all
    tests that run processes of their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "prefect_is_in_use", lambda: False)
        # A busy SQLite has Prefect's server answer 503; it is asked again for longer than by default.
        settings = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_CLIENT_MAX_RETRIES: 20}
        with temporary_settings(settings), TIMINGS.use(QUICK_CLIENT), FIRST_DELAY_SECONDS.use(0.01):
            yield


AT_ONCE = Timing(claim=0.0, settle_after=0.0, await_other_for=0.0, look_again_after=0.05)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(slots, "prefect_is_in_use", lambda: False)
    with TIMINGS.use(QUICK_CLIENT), FIRST_DELAY_SECONDS.use(0.01), TIMING.use(AT_ONCE):
        yield


@pytest.fixture
def waiting() -> Iterator[Callable[..., None]]:
    """Has runs wait for longer than the tests' own `AT_ONCE`, as `waiting(claim=1.0)`."""
    with ExitStack() as stack:

        def wait(**seconds: float) -> None:
            stack.enter_context(TIMING.use(replace(TIMING.get(), **seconds)))

        yield wait


@pytest.fixture
def fail_once() -> Callable[[], None]:
    """A later step that fails in the first attempt only."""
    left = [1]

    def fail() -> None:
        if left:
            left.pop()
            raise RuntimeError("a later step")

    return fail


@pytest.fixture
def sandbox(nanobanana_sandbox: Sandbox) -> Sandbox:
    nanobanana_sandbox.picture_pixels = 96
    return nanobanana_sandbox


@pytest.fixture
def credentials(sandbox: Sandbox) -> NanoBananaCredentials:
    return NanoBananaCredentials(api_key=SecretStr(sandbox.api_key), base_url=sandbox.base_url)


@pytest.fixture
def generator(credentials: NanoBananaCredentials) -> NanoBananaGenerator:
    return NanoBananaGenerator(credentials=credentials)


@pytest.fixture(scope="session")
def s3() -> Iterator[LocalS3]:
    """A real S3 server that checks signatures and keeps objects as files."""
    with LocalS3(SCRATCH / "s3") as server:
        server.make_bucket(BUCKET)
        yield server


MakeBucket = Callable[..., S3Bucket]


@pytest.fixture
def make_bucket(s3: LocalS3) -> MakeBucket:
    """Makes bucket blocks; without arguments one that works, in a folder of the test's own."""

    def make(**changes: Any) -> S3Bucket:
        secret = changes.pop("secret", s3.secret_key)
        endpoint = changes.pop("endpoint_url", s3.endpoint_url)
        credentials = MinIOCredentials(
            minio_root_user=changes.pop("user", s3.access_key),
            minio_root_password=SecretStr(secret),
            aws_client_parameters=AwsClientParameters(endpoint_url=endpoint),
        )
        settings = {"bucket_name": BUCKET, "bucket_folder": f"t-{uuid.uuid4().hex[:8]}", **changes}
        return S3Bucket(credentials=credentials, **settings)

    return make


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """A store that honours conditional writes; it checks neither signatures nor checksums."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    httpx.put(f"{url}/{BUCKET}").raise_for_status()
    yield url
    server.stop()


@pytest.fixture
def bucket(make_bucket: MakeBucket) -> S3Bucket:
    return make_bucket()


@pytest.fixture
def folder(s3: LocalS3, bucket: S3Bucket) -> Path:
    """Where the files of `bucket` are on disk."""
    return s3.folder / bucket.bucket_name / bucket.bucket_folder


@pytest.fixture
def run(generator: NanoBananaGenerator, bucket: S3Bucket) -> Callable[..., RunReport]:
    """Runs the main job; a run that turned red yields its report too."""

    def call(*prompts: Any, **changes: Any) -> RunReport:
        settings = {"generator": generator, "bucket": bucket, "batch": "b", **changes}
        try:
            report = generate_images(prompts=list(prompts), **settings)
        except RunFailed as error:
            report = error.report
        assert isinstance(report, RunReport)
        return report

    return call


@pytest.fixture
def plan(generator: NanoBananaGenerator, bucket: S3Bucket) -> Callable[..., Plan]:
    """Plans what the fixture `run` would run."""

    def call(*prompts: Any, **changes: Any) -> Plan:
        settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "batch": "b", **changes}
        found: Any = plan_images(prompts=list(prompts), **settings)
        assert isinstance(found, Plan)
        return found

    return call


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Waits until something is so."""

    def wait(is_so: Callable[[], bool], seconds: float = 30) -> None:
        began = time.monotonic()
        while not is_so():
            waited = time.monotonic() - began
            assert waited < seconds, "it did not happen in time"
            time.sleep(min(0.5, 0.05 + waited / 20))  # looking takes time from what is waited for

    return wait


LONG = (
    *("parts", "matrix", "browser", "production", "slots_across", "killed", "stopping", "deployments"),
    *("readme", "automations", "ui"),
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first, or one of them is the last and everybody waits for it."""

    def place(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return LONG.index(name) if name in LONG else len(LONG)

    items.sort(key=place)
