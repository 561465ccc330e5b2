"""What is published after the credits are spent: a part that fails prevents nothing else."""

from __future__ import annotations

import http.client
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from galleries import gallery_item
from prefect import flow, get_run_logger
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect_aws import S3Bucket
from servers import FaultyS3, Reply, Scripted, Seen, s3_error

from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator, RunReport
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.models import PendingReport
from prefect_nanobanana.progress import Progress
from prefect_nanobanana.report import (
    FolderPublisher,
    Publisher,
    emit_image_missing,
    emit_image_stored,
    summary,
)
from prefect_nanobanana.report._live import LiveArtifact
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
MakeBucket = Callable[..., S3Bucket]


@contextmanager
def prefect_in_front(fault: Callable[[Seen], Reply | None]) -> Iterator[Scripted]:
    """Stand before the session's Prefect server, and answer some requests as `fault` says."""
    behind = urlsplit(str(PREFECT_API_URL.value()))

    def answer(seen: Seen) -> Reply:
        reply = fault(seen)
        if reply is not None:
            return reply
        connection = http.client.HTTPConnection(behind.netloc, timeout=60)
        headers = {k: v for k, v in seen.headers.items() if k not in ("host", "accept-encoding")}
        connection.request(seen.method, seen.path, seen.body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        kept = {
            k: v for k, v in response.getheaders() if k.lower() in ("content-type", "content-encoding")
        }
        return Reply(content, response.status, kept)

    with Scripted(answer) as server:
        settings: dict[Any, Any] = {
            PREFECT_API_URL: f"{server.url}/api",
            PREFECT_CLIENT_MAX_RETRIES: 0,
        }
        with temporary_settings(settings):
            yield server


@flow(name="publishing")
def _publishing(store: Any, credentials: Any, begun: Any = None) -> RunReport:
    """A run's last steps; `begun` is set before them."""
    items = [gallery_item(1)]
    publisher = Publisher(store, "b", get_run_logger())
    report = publisher.report(items, balance_before=10, balance_after=9)
    if begun is not None:
        begun.set()
    return publisher.publish(report, items, credentials)


def _stored(store: ObjectStore) -> set[str]:
    return {key.rpartition("/")[2] for key, *_ in store.keys(store.key("b") + "/")}


ALL = ("index.html", "images.jsonl", "prompts.parquet", "images.parquet", "manifest.jsonl")
ARTIFACTS = ("artifact results", "artifact credits", "artifact gallery")


@pytest.mark.parametrize(
    ("broken", "unpublished"),
    [
        ("index.html", ("index.html",)),
        ("manifest.jsonl", ("manifest.jsonl",)),
        ("images.parquet", ("images.parquet",)),
        ("", (*ALL, "artifact nanobanana-credits")),
        (None, ()),
    ],
)
def test_pages_that_the_store_refuses(
    make_bucket: MakeBucket,
    bucket: S3Bucket,
    credentials: NanoBananaCredentials,
    caplog: pytest.LogCaptureFixture,
    broken: str | None,
    unpublished: tuple[str, ...],
) -> None:
    endpoint = bucket.credentials.aws_client_parameters.endpoint_url
    with FaultyS3(str(endpoint)) as front:
        front.fault = lambda seen: (
            s3_error(507, "InsufficientStorage")
            if broken is not None and seen.method == "PUT" and seen.path.endswith(broken)
            else None
        )
        store = ObjectStore(make_bucket(endpoint_url=front.url))
        report = _publishing(store, credentials)
        assert report.unpublished == unpublished
        assert _stored(store) == {*ALL} - set(unpublished)
    assert (report.gallery_uri is None) == ("index.html" in unpublished)
    assert (report.manifest_uri is None) == ("manifest.jsonl" in unpublished)
    assert (", ".join(unpublished) in summary(report)) or not unpublished
    assert ("could not be published" in summary(report)) is bool(unpublished)
    for name in unpublished:
        assert f"{name} could not be published: " in caplog.text
        assert "InsufficientStorage" in caplog.text


AWAY = {
    "error": Reply(b'{"detail": "database is locked"}', 500),
    "html": Reply(b"<html>captive portal</html>", 200),
    "reset": Reply(reset=True),
}


@pytest.mark.parametrize("away", AWAY)
def test_a_prefect_server_that_is_away_prevents_no_page(
    bucket: S3Bucket, credentials: NanoBananaCredentials, caplog: pytest.LogCaptureFixture, away: str
) -> None:
    begun = threading.Event()

    def fault(seen: Seen) -> Reply | None:
        # The run's own state is Prefect's business: it may be set at the end.
        return AWAY[away] if begun.is_set() and "/flow_runs/" not in seen.path else None

    store = ObjectStore(bucket)
    with prefect_in_front(fault):
        report = _publishing(store, credentials, begun)
    assert _stored(store) == {*ALL}
    assert set(ARTIFACTS) <= set(report.unpublished)
    assert report.gallery_uri
    assert report.manifest_uri
    for what in report.unpublished:
        assert f"{what} could not be published" in caplog.text
    assert "could not be published: " in summary(report)


def test_one_artifact_that_prefect_refuses_costs_neither_the_others_nor_the_run(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[str] = []

    def fault(seen: Seen) -> Reply | None:
        if seen.method != "POST" or seen.path != "/api/artifacts/":
            return None
        key = str(json.loads(seen.body)["key"])
        if key.endswith(("-credits", "-progress", "-plan")):
            return Reply(b'{"detail": "no"}', 422)
        made.append(key)
        return None

    with prefect_in_front(fault):
        report = generate_images(prompts=["a", "b"], generator=generator, bucket=bucket, batch="b")
    assert (report.stored, sandbox.account.posts) == (2, 2)
    account = next(key for key in made if key.startswith("nanobanana-credits-"))
    assert sorted(made) == ["nanobanana-b", "nanobanana-b-results", account]
    assert report.unpublished == ("artifact plan", "artifact credits")
    assert "progress cannot be shown" in caplog.text
    assert "artifact credits could not be published" in caplog.text


def test_progress_moves_on_after_a_failure(
    caplog: pytest.LogCaptureFixture, wait_for: Callable[..., None]
) -> None:
    told: list[str] = []

    def fault(seen: Seen) -> Reply | None:
        if seen.method != "PATCH" or not seen.path.startswith("/api/artifacts/"):
            return None
        told.append(str(json.loads(seen.body)["description"]))
        return Reply(b"{}", 500) if len(told) == 1 else None

    @flow(name="watching")
    def watching() -> None:
        with LiveArtifact("nanobanana-b-progress", get_run_logger(), update_seconds=0.0) as live:
            for done in (1, 2):
                live(Progress(2, {"stored": done}, images=done, credits_used=done, seconds_left=None))
                wait_for(lambda expected=done: len(told) >= expected)

    with prefect_in_front(fault):
        watching()
    assert told[-1] == "2 of 2 prompts: 2 stored; 2 credits spent"
    assert caplog.text.count("progress cannot be shown") == 1


@pytest.mark.parametrize("status", [422, 500, 201])
def test_what_is_still_owed_is_shown_where_it_can_be(
    status: int,
    bucket: S3Bucket,
    credentials: NanoBananaCredentials,
    caplog: pytest.LogCaptureFixture,
) -> None:
    report = PendingReport(
        batches=("b",),
        generations=3,
        images=2,
        waiting=1,
        lost=1,
        credits_lost=1,
        messages=("<b>x\x1b[1m",),
    )
    shown: list[str] = []

    def fault(seen: Seen) -> Reply | None:
        if seen.method != "POST" or seen.path != "/api/artifacts/":
            return None
        made = json.loads(seen.body)
        if made["key"] == "nanobanana-pending":
            shown.append(made["data"])
        return Reply(b"{}", status) if status != 201 else None

    @flow(name="pending")
    def pending() -> None:
        store = ObjectStore(bucket)
        publisher = FolderPublisher(store, get_run_logger())
        publisher.pending(report, credentials, {}, lambda _: None)

    with prefect_in_front(fault):
        pending()
    assert summary(report) == "2 images copied, 1 generation waiting, 1 generation lost (1 credit)"
    assert summary(report) in shown[0]
    assert "- &#60;b&#62;x" in shown[0]
    assert "\x1b" not in shown[0]
    assert ("could not be published" in caplog.text) is (status != 201)


def test_events_that_cannot_be_sent_cost_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be sent, as a text that is no Unicode, fails where the event is made."""
    item = gallery_item(1, status="failed")
    outcome = item.outcome.model_copy(update={"message": "\ud800", "position": object()})
    with caplog.at_level(logging.WARNING):
        emit_image_missing("b", outcome)
        emit_image_stored("b", 1, "\ud800", 1, gallery_item(1).outcome.images[0])
    assert caplog.text.count("Error emitting event") == 2
