"""The main job on this machine alone: a local API server, a local S3 server, no account needed.

`nanobanana demo` runs this module in a process of its own, in which Prefect is imported with settings of
the demo's own. What it leaves behind is for its owner alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import httpx
from prefect_aws import MinIOCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr
from rich.console import Console

from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator, RunReport
from prefect_nanobanana.cli._packaged import packaged
from prefect_nanobanana.console import live_progress, print_report
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.sandbox.s3 import LocalS3

HOME = "NANOBANANA_DEMO_HOME"
BUCKET = "pictures"
SLOTS = 2


def environment(home: Path) -> dict[str, str]:
    """The environment of the demo: it keeps to itself.

    Nothing appears in the home folder, there is no telemetry, and no server that is configured already
    is used. Its own server asks for a password, and lets no web page read its answers.

    Args:
        home: Where everything is kept.
    """
    home = home.resolve()
    os.umask(0o077)  # what we and our processes write is nobody else's to read
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)  # an earlier version may have made it
    auth = f"demo:{secrets.token_urlsafe(16)}"
    configured = ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE")
    return {
        **{name: value for name, value in os.environ.items() if name not in configured},
        HOME: str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_PROFILES_PATH": str(home / "prefect" / "profiles.toml"),
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": "http://127.0.0.1",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def main() -> int:
    """Run the demo.

    Returns:
        0 only if every image is in the bucket byte for byte and every credit is accounted for.
    """
    home, console = Path(os.environ[HOME]), Console()
    console.print("Starting a local Nano Banana server and a local S3 server ...")
    command = [sys.executable, "-m", "prefect_nanobanana.sandbox", "--port", "0"]
    latency = os.environ.get("NANOBANANA_DEMO_LATENCY", "0.8-2")
    command += ["--limit", str(SLOTS), "--credits", "100", "--latency", latency]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as api,
        LocalS3(home / "s3") as s3,
    ):
        try:
            assert api.stdout is not None
            base_url, key = (api.stdout.readline().strip().partition("=")[2] for _ in range(2))
            s3.make_bucket(BUCKET)
            console.print(f"  API {base_url}\n  S3  {s3.endpoint_url}, whose files are in {s3.folder}")
            console.print("Starting Prefect (a temporary server; the first time takes a while) ...")
            report = run(base_url, key, s3)
            print_report(report, console)
            books = httpx.get(f"{base_url.removesuffix('/api/v1')}/sandbox/books").json()
        finally:
            api.terminate()
    problems = check(report, books, s3.folder / BUCKET)
    for problem in problems:
        console.print(f"[red]{problem}[/red]")
    if problems:
        return 1
    page = s3.folder / BUCKET / report.batch / "index.html"
    console.print(
        f"All adds up: {report.images} images in S3 are byte for byte what the API served, and the "
        f"{report.credits_used} credits are what it charged.\nOpen the gallery: ",
        end="",
    )
    console.print(str(page), soft_wrap=True, highlight=False)
    return 0


def run(base_url: str, key: str, s3: LocalS3) -> RunReport:
    """Run the main job against the local servers."""
    generator = NanoBananaGenerator(
        credentials=NanoBananaCredentials(
            api_key=SecretStr(key), base_url=base_url, max_concurrent_requests=SLOTS
        )
    )
    bucket = S3Bucket(
        bucket_name=BUCKET,
        credentials=MinIOCredentials(
            minio_root_user=s3.access_key,
            minio_root_password=SecretStr(s3.secret_key),
            aws_client_parameters=AwsClientParameters(endpoint_url=s3.endpoint_url),
        ),
    )
    with live_progress():
        return generate_images(
            prompts_from=str(packaged("postcards.csv", "flows/prompts")),
            generator=generator,
            bucket=bucket,
            batch=f"postcards-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}",
        )


def check(report: RunReport, books: dict[str, object], folder: Path) -> list[str]:
    """Hold the report against the API server's books and the files on disk.

    Returns:
        What does not add up; empty if all does.
    """
    problems = []
    if report.credits_used != books["charged"]:
        problems.append(f"reported {report.credits_used} credits, charged {books['charged']}")
    served = books["images"]
    assert isinstance(served, dict)
    manifest = (folder / report.batch / "manifest.jsonl").read_text("utf-8").splitlines()
    stored = {}
    for row in map(json.loads, manifest):
        for image, url in zip(
            row.get("images", []), row["generation"].get("image_urls", []), strict=True
        ):
            content = (folder / image["key"]).read_bytes()
            stored["/files/" + url.rpartition("/")[2]] = hashlib.sha256(content).hexdigest()
    if stored != served:
        problems.append(f"{len(served)} images were served, {len(stored)} stored, and they differ")
    if report.failed or report.unknown or report.skipped:
        problems.append("not every prompt was stored or refused")
    return problems


if __name__ == "__main__":
    sys.exit(main())
