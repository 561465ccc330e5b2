"""Secrets reach no log, artifact, record, exception or image host."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import prefect.settings
import pytest
from prefect_aws import S3Bucket
from pydantic import SecretStr

from prefect_nanobanana import NanoBananaGenerator, RunFailed
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

KEY = "nb_do-not-tell-anybody-4711"


@pytest.fixture(params=["sync", "async", "stream"])
def told(
    prefect_server: None,
    sandbox: Sandbox,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> str:
    """All that a run with every kind of fault said in its log and its error."""
    sandbox.api_key = KEY
    sandbox.stream_ids = True
    generator.mode = request.param
    generator.credentials.api_key = SecretStr(KEY)
    sandbox.faults.queue(
        "reset_after", "500", "bad_json", "429", "400", None, "warning", "failed", "401"
    )
    caplog.set_level(logging.DEBUG)
    with pytest.raises(RunFailed) as caught:
        generate_images(prompts=[*"abcdefghijk"], generator=generator, bucket=bucket, batch="b")
    error = caught.value
    return f"{caplog.text} {error} {error!r} {error.report!r} {error.__cause__!r} {error.__context__!r}"


def test_in_no_log_and_no_exception(told: str, s3: LocalS3) -> None:
    assert "stored" in told
    assert KEY not in told
    assert s3.secret_key not in told


def test_in_no_record_manifest_or_page(told: str, folder: Path, s3: LocalS3) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert KEY.encode() not in content, path
        assert s3.secret_key.encode() not in content, path


def test_with_no_image_host(told: str, sandbox: Sandbox) -> None:
    images = [headers for _, path, headers in sandbox.requests if path.startswith("/files/")]
    assert images
    for headers in images:
        assert KEY not in str(headers)


def test_not_in_clear_in_prefects_database(told: str, s3: LocalS3) -> None:
    """Parameters, states, logs and artifacts, as the server keeps them."""
    url = prefect.settings.PREFECT_SERVER_DATABASE_CONNECTION_URL.value()
    assert url is not None
    raw = url.get_secret_value() if hasattr(url, "get_secret_value") else str(url)
    with sqlite3.connect(raw.partition("///")[2]) as database:
        text = "\n".join(database.iterdump())
    assert "generate_images" in text
    assert KEY not in text
    assert s3.secret_key not in text
