"""The main job, over real HTTP and real S3, on a real Prefect server."""

from __future__ import annotations

import contextvars
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest
from flow_checks import adds_up, statuses
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterName,
)
from prefect_aws import S3Bucket
from pydantic import SecretStr
from servers import FaultyS3, Reply, Seen, s3_error, s3_over_tls

from prefect_nanobanana import (
    AuthenticationFailed,
    BucketNotUsable,
    ImagePrompt,
    InvalidInput,
    LedgerError,
    NanoBananaCredentials,
    NanoBananaError,
    NanoBananaGenerator,
    Progress,
    RunFailed,
    RunReport,
    StorageError,
    StorageOptions,
    UnknownOutcome,
    watch_progress,
)
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.images._copier import Copier
from prefect_nanobanana.models import OutcomeStatus
from prefect_nanobanana.s3._store import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = pytest.mark.usefixtures("prefect_server")
MakeBucket = Callable[..., S3Bucket]


def test_prompts_become_pictures(run: Callable[..., RunReport], sandbox: Sandbox, folder: Path) -> None:
    report = run(
        "a cat",
        ImagePrompt(prompt="ein großer Bär\nauf zwei Zeilen", quantity=3, aspect_ratio="16:9"),
        "a bloody sword",
        "a cat",
        ImagePrompt(
            prompt="a bird",
            name="hero",
            model="nanobanan-2",
            reference_image_urls=["https://e/1", "https://e/2"],
        ),
    )
    assert statuses(report) == ["stored", "stored", "warning", "stored", "stored"]
    assert report.credits_used == 1 + 3 + 1 + 1 + 3 == sandbox.account.charged
    assert (report.balance_before, report.balance_after, report.remaining_credits) == (100, 91, 91)
    assert report.credits_without_image == 1
    assert report.credits_unexplained == 0
    assert report.images == 6
    adds_up(report, sandbox, folder)
    names = sorted(p.name for p in (folder / "b/images").iterdir())
    assert any(name.startswith("hero-") for name in names)
    assert sum(name.startswith("ein-grosser-bar-auf-zwei-zeilen-") for name in names) == 3
    assert report.gallery_uri == f"s3://pictures/{folder.name}/b/index.html"
    page = (folder / "b/index.html").read_text("utf-8")
    assert page.count('src="data:image/webp;base64,') == 6
    assert all(f'href="images/{name}"' in page for name in names)
    assert sandbox.account.most_open == 1


def test_a_finished_batch_makes_no_post(
    run: Callable[..., RunReport], sandbox: Sandbox, folder: Path
) -> None:
    first = run("a cat", "a bloody sword", "a dog")
    posts = sandbox.account.posts
    again = run("a cat", "a bloody sword", "a dog")
    assert sandbox.account.posts == posts == 3
    assert (again.credits_used, again.credits_reused) == (0, first.credits_used)
    assert statuses(again) == statuses(first)
    assert all(o.reused for o in again.outcomes)
    assert [o.images for o in again.outcomes] == [o.images for o in first.outcomes]
    adds_up(again, sandbox, folder)


def test_inserting_and_moving_prompts_pays_for_what_is_new_only(
    run: Callable[..., RunReport], sandbox: Sandbox, folder: Path
) -> None:
    run("a", "b", "b")
    report = run("new", "b", "a", "b", "b")
    assert [o.reused for o in report.outcomes] == [False, True, True, True, False]
    assert sorted(row.prompt for row in sandbox.account.rows) == ["a", "b", "b", "b", "new"]
    adds_up(report, sandbox, folder)


def test_a_shorter_list_leaves_no_image_out_of_the_manifest(
    run: Callable[..., RunReport], sandbox: Sandbox, folder: Path
) -> None:
    run("a", "nude", ImagePrompt(prompt="b", quantity=2))
    report = run("c")
    assert (report.prompts, report.images, report.credits_reused) == (1, 1, 0)
    adds_up(report, sandbox, folder)
    rows = (folder / "b/manifest.jsonl").read_text("utf-8").splitlines()
    assert sorted(json.loads(row)["prompt"]["prompt"] for row in rows) == ["a", "b", "c", "nude"]
    page = (folder / "b/index.html").read_text("utf-8")
    assert "With 3 more from earlier lists of this batch" in page
    assert page.count("<article") == 4


def test_other_records_that_cannot_be_read_do_not_hide_the_run(
    run: Callable[..., RunReport], folder: Path
) -> None:
    run("a")
    (record,) = (folder / "b/records").iterdir()
    record.write_text("{")
    assert run("c").stored == 1


def test_an_unknown_outcome_keeps_the_id_that_was_told(
    run: Callable[..., RunReport], sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def processing(*_: Any, **__: Any) -> Any:
        raise UnknownOutcome("still processing", generation_id="g17")

    monkeypatch.setattr("prefect_nanobanana.client._operations.read_generation", processing)
    report = run("a")
    assert "generation g17 was not seen to end" in str(report.outcomes[0].message)
    (record,) = (folder / "b/records").iterdir()
    assert json.loads(record.read_text())["generation_id"] == "g17"
    assert statuses(run("a")) == ["unknown"]
    assert sandbox.account.posts == 1


def test_one_copy_that_breaks_in_an_unexpected_way_is_one_failed_prompt(
    run: Callable[..., RunReport], sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Copier.copy

    def break_once(self: Copier, url: str, key: str, *rest: Any, **options: Any) -> Any:
        if "/b-" in key:
            raise RuntimeError("a bug")
        return copy(self, url, key, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Copier, "copy", break_once)
        report = run("a", "b", "c")
    assert statuses(report) == ["stored", "failed", "stored"]
    assert "a bug" in str(report.outcomes[1].message)
    adds_up(report, sandbox, folder)
    again = run("a", "b", "c")
    assert (again.stored, again.credits_used, sandbox.account.posts) == (3, 0, 3)


def test_a_store_that_is_away_for_a_while_costs_nothing(
    generator: NanoBananaGenerator, sandbox: Sandbox, make_bucket: MakeBucket, tmp_path: Path
) -> None:
    """Away for longer than boto3 tries on its own, while an answer is being waited for."""
    first = LocalS3(tmp_path / "s3")
    first.make_bucket("pictures")
    with first:
        bucket = make_bucket(endpoint_url=first.endpoint_url)

        def go_away(row: Any, fault: Any) -> None:
            finish(row, fault)
            if row.prompt == "b":
                first.__exit__()
                threading.Timer(9, first.__enter__).start()

        finish, sandbox.finish = sandbox.finish, go_away  # type: ignore[method-assign]
        report = generate_images(prompts=["a", "b"], generator=generator, bucket=bucket, batch="b")
    assert report.stored == 2
    adds_up(report, sandbox, tmp_path / "s3/pictures" / bucket.bucket_folder)


def test_a_refusal_that_could_not_be_recorded_is_asked_again(
    generator: NanoBananaGenerator, sandbox: Sandbox, make_bucket: MakeBucket, s3: LocalS3
) -> None:
    left = [6]  # more than boto3 tries on its own

    def fault(seen: Seen) -> Reply | None:
        if b'"not_charged"' in seen.body and left[0]:
            left[0] -= 1
            return Reply(reset=True)
        return None

    sandbox.faults.queue("400")
    with FaultyS3(s3.endpoint_url) as proxy:
        proxy.fault = fault
        settings: dict[str, Any] = {
            "generator": generator,
            "bucket": make_bucket(endpoint_url=proxy.url),
            "batch": "b",
            "prompts": ["a"],
        }
        with pytest.raises(RunFailed, match="Invalid parameters"):
            generate_images(**settings)
        assert left == [0]
        assert generate_images(**settings).stored == 1


@pytest.mark.parametrize("conditional", [True, False])
def test_two_runs_of_a_batch_at_once_do_not_both_pay(
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    make_bucket: MakeBucket,
    moto_url: str,
    s3: LocalS3,
    waiting: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    conditional: bool,
) -> None:
    """On a store with conditional writes and on one without; both have read the ledger before."""
    sandbox.latency = (0.1, 0.2)
    waiting(claim=1.0, await_other_for=75.0)
    bucket = make_bucket(endpoint_url=moto_url if conditional else s3.endpoint_url)
    read, barrier = Ledger.read, threading.Barrier(2)

    def read_together(self: Ledger, wanted: Any) -> Any:
        records = read(self, wanted)
        barrier.wait(60)
        return records

    def work(_: int) -> RunReport:
        try:
            return generate_images(prompts=[*"abcdef"], generator=generator, bucket=bucket, batch="b")
        except RunFailed as error:
            return error.report  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(Ledger, "read", read_together)
        reports = list(pool.map(work, range(2)))
    assert sorted(row.prompt for row in sandbox.account.rows) == [*"abcdef"], "paid twice"
    assert sum(report.credits_used for report in reports) == sandbox.account.charged == 6
    assert all(report.stored == 6 for report in reports), "what the other has in hand is waited for"
    assert [sum(report.credits_reused for report in reports)] == [6]
    again = generate_images(prompts=[*"abcdef"], generator=generator, bucket=bucket, batch="b")
    assert (again.stored, again.credits_used) == (6, 0)


@pytest.mark.parametrize("conditional", [True, False])
def test_a_run_that_comes_between_reading_and_claiming_is_seen(
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    make_bucket: MakeBucket,
    moto_url: str,
    s3: LocalS3,
    conditional: bool,
) -> None:
    bucket = make_bucket(endpoint_url=moto_url if conditional else s3.endpoint_url)
    settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "batch": "b"}
    read = Ledger.read

    with pytest.MonkeyPatch.context() as patch:

        def read_and_be_overtaken(self: Ledger, wanted: Any) -> Any:
            records = read(self, wanted)
            patch.setattr(Ledger, "read", read)
            generate_images(prompts=["a", "b"], **settings)
            return records

        patch.setattr(Ledger, "read", read_and_be_overtaken)
        report = generate_images(prompts=["a", "b"], fail_on="never", **settings)
    assert statuses(report) == ["stored", "stored"]
    assert (report.credits_used, report.credits_reused, sandbox.account.posts) == (0, 2, 2)
    assert generate_images(prompts=["a", "b"], **settings).credits_reused == 2


def test_without_a_batch_name_each_run_is_new(run: Callable[..., RunReport], sandbox: Sandbox) -> None:
    assert run("a", batch=None).batch != run("a", batch=" ").batch
    assert sandbox.account.posts == 2


@pytest.mark.parametrize(
    ("fault", "status", "charged", "message"),
    [
        ("reset_before", "stored", 1, None),
        ("reset_after", "unknown", 1, "maybe paid (1 credit), and not asked again"),
        ("cut", "unknown", 1, "maybe paid"),
        ("stall", "unknown", 1, "no answer within"),
        ("bad_json", "unknown", 1, "not JSON"),
        ("empty", "unknown", 1, "empty body"),
        ("html", "unknown", 1, "HTML page"),
        ("no_credits_told", "stored", 1, None),
        ("400", "failed", 0, "Invalid parameters"),
        ("500", "unknown", 1, "500"),
        ("502", "unknown", 1, "502"),
        ("503", "stored", 1, None),
        ("503_html", "unknown", 1, "503"),
        ("504", "unknown", 1, "504"),
        ("429", "stored", 1, None),
        ("429_seconds", "stored", 1, None),
        ("429_date", "stored", 1, None),
        ("429_html", "stored", 1, None),
        ("warning", "warning", 1, "Content safety check failed"),
        ("failed", "failed", 1, "The model returned no image"),
    ],
)
def test_one_bad_prompt_does_not_stop_the_others_and_is_never_paid_twice(
    run: Callable[..., RunReport],
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    folder: Path,
    fault: str,
    status: str,
    charged: int,
    message: str | None,
) -> None:
    if fault == "stall":
        generator.credentials.request_timeout_seconds = 0.5
        sandbox.account.limit = 2  # the request that hangs holds its slot at the server
    sandbox.faults.queue(None, fault)
    report = run("one", "two", "three")
    assert sorted(statuses(report)) == sorted(["stored", status, "stored"])
    assert sandbox.account.charged == 2 + charged
    assert report.credits_used == 2 + (charged if status != "unknown" else 0)
    assert report.credits_unexplained == (charged if status == "unknown" else 0)
    (told,) = [o.message for o in report.outcomes if o.status != "stored"] or [None]
    assert told is None if message is None else message in str(told)
    adds_up(report, sandbox, folder)
    # Again: what was charged, or may have been, is not asked for again.
    posts = sandbox.account.posts
    again = run("one", "two", "three")
    assert sandbox.account.posts - posts == (1 if fault == "400" else 0)
    assert statuses(again).count("stored") == (3 if fault == "400" else report.stored)
    assert statuses(again) == statuses(report) or fault == "400"
    adds_up(again, sandbox, folder)


@pytest.mark.parametrize(("fault", "second"), [("401", "failed"), ("402", "skipped"), ("403", "failed")])
def test_what_no_other_prompt_would_survive_stops_the_run(
    run: Callable[..., RunReport], sandbox: Sandbox, folder: Path, fault: str, second: str
) -> None:
    sandbox.latency = (0.05, 0.05)
    sandbox.faults.queue(None, *[fault] * 20)
    report = run(*"abcdefgh")
    assert sorted(statuses(report)) == sorted(["stored", second, *["skipped"] * 6])
    assert all(fault in str(o.message) for o in report.outcomes if o.status != "stored")
    assert sandbox.account.posts == 2, "what is hopeless is not asked"
    assert sandbox.account.charged == 1 == report.credits_used
    adds_up(report, sandbox, folder)


def test_credits_that_run_out(run: Callable[..., RunReport], sandbox: Sandbox, folder: Path) -> None:
    sandbox.account.credits = 2
    report = run("a", "b", "c", "d")
    assert (report.stored, report.skipped) == (2, 2)
    assert report.remaining_credits == 0
    adds_up(report, sandbox, folder)
    sandbox.account.credits = 10
    again = run("a", "b", "c", "d")
    assert (again.stored, again.credits_used, again.credits_reused) == (4, 2, 2)


@pytest.mark.parametrize(("ceiling", "stored"), [(0, 0), (1, 1), (3, 2), (4, 3), (50, 4)])
def test_the_ceiling_holds(
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    folder: Path,
    ceiling: int,
    stored: int,
) -> None:
    """A ceiling that was reached is what was asked for: the run stays green."""
    sandbox.account.limit = 4
    generator.credentials.max_concurrent_requests = 4
    sandbox.faults.queue("429_seconds")
    prompts: list[str | ImagePrompt] = ["a", "b", ImagePrompt(prompt="c", quantity=2), "d"]
    report = generate_images(
        prompts=prompts, generator=generator, bucket=bucket, batch="b", max_credits=ceiling
    )
    assert sandbox.account.charged <= ceiling
    assert report.credits_used == sandbox.account.charged
    assert report.stored >= min(stored, 2)
    assert report.stored + report.skipped == 4
    adds_up(report, sandbox, folder)


BAD_STARTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no prompts": ({"prompts": []}, InvalidInput, "there are no prompts"),
    "empty prompt": ({"prompts": ["fine", " "]}, InvalidInput, "row 2: prompt: the prompt is empty"),
    "missing file": ({"prompts_from": "/no/such.csv"}, InvalidInput, "cannot be read"),
    "missing s3 file": ({"prompts_from": "s3://pictures/no.csv"}, InvalidInput, "NoSuchKey"),
    "bad s3 address": ({"prompts_from": "s3://pictures"}, InvalidInput, "write s3://bucket/key"),
    "wrong column": ({"prompts_from": "WRONG"}, InvalidInput, "line 1: there is no column 'promt'"),
    "unknown model": (
        {"prompts": ["a", ImagePrompt(prompt="b", model="mega")]},
        InvalidInput,
        "row 2: model: the API has no 'mega': it has nano-banana, ",
    ),
    "references for a model that takes none": (
        {
            "prompts": [
                ImagePrompt(prompt="b", model="seedream-5.0-2k", reference_image_urls=["https://e/1"])
            ]
        },
        InvalidInput,
        "takes no reference images: remove them",
    ),
    "bad batch": ({"batch": "../other"}, InvalidInput, "cannot name a batch"),
    "wrong key": ({"key": "nb_wrong"}, AuthenticationFailed, "put the right key"),
    "missing bucket": ({"bucket": {"bucket_name": "no-such"}}, BucketNotUsable, "does not exist"),
    "wrong secret": ({"bucket": {"secret": "no"}}, BucketNotUsable, "denied|secret key is wrong"),
}


@pytest.mark.parametrize("case", BAD_STARTS)
def test_what_is_wrong_stops_the_run_before_it_spends(
    case: str,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    make_bucket: MakeBucket,
    tmp_path: Path,
) -> None:
    changes, kind, says = BAD_STARTS[case]
    changes = dict(changes)
    if changes.get("prompts_from") == "WRONG":
        changes["prompts_from"] = str(tmp_path / "p.csv")
        (tmp_path / "p.csv").write_text("promt\na cat\n")
    if "key" in changes:
        generator.credentials.api_key = SecretStr(changes.pop("key"))
    settings: dict[str, Any] = {"prompts": [] if "prompts_from" in changes else ["a cat"], **changes}
    settings["bucket"] = make_bucket(**changes.get("bucket", {}))
    with pytest.raises(kind, match=says):
        generate_images(generator=generator, **settings)
    assert sandbox.account.posts == 0


def test_a_store_over_tls(
    run: Callable[..., RunReport], sandbox: Sandbox, s3: LocalS3, bucket: S3Bucket, tmp_path: Path
) -> None:
    """There boto3 frames what it sends as rclone and Ceph refuse it, unless it is told not to."""
    with s3_over_tls(s3.endpoint_url, tmp_path) as (front, parameters):
        bucket.credentials.aws_client_parameters = parameters
        assert statuses(run("a cat", "gore")) == ["stored", "warning"]
        assert statuses(run("a cat", "gore")) == ["stored", "warning"]
        assert any(seen.path.endswith("/index.html") for seen in front.seen)
    assert sandbox.account.posts == 2


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_a_bucket_without_permission_stops_the_run_before_it_spends(
    generator: NanoBananaGenerator, sandbox: Sandbox, make_bucket: MakeBucket, s3: LocalS3, method: str
) -> None:
    with FaultyS3(s3.endpoint_url) as proxy:
        proxy.fault = lambda seen: s3_error(403, "AccessDenied") if seen.method == method else None
        with pytest.raises(BucketNotUsable, match="grant s3:ListBucket, s3:GetObject and s3:PutObject"):
            generate_images(
                prompts=["a cat"], generator=generator, bucket=make_bucket(endpoint_url=proxy.url)
            )
    assert sandbox.account.posts == 0


def test_a_ceiling_that_cannot_be_kept_is_said(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    del sandbox.account.models["nano-banana"]
    with pytest.raises(InvalidInput, match="does not list the price of 'nano-banana'"):
        generate_images(prompts=["a"], generator=generator, bucket=bucket, max_credits=5)
    assert sandbox.account.posts == 0


def test_a_record_that_cannot_be_read_stops_the_run(
    run: Callable[..., RunReport], sandbox: Sandbox, folder: Path
) -> None:
    run("a cat")
    (record,) = (folder / "b/records").iterdir()
    record.write_text("{")
    with pytest.raises(LedgerError, match="nothing is spent"):
        run("a cat", "a dog")
    assert sandbox.account.posts == 1


def test_images_that_could_not_be_copied_are_copied_by_the_next_run(
    run: Callable[..., RunReport],
    sandbox: Sandbox,
    folder: Path,
) -> None:
    sandbox.url_lifetime_seconds = -1
    once = StorageOptions(retry_for_seconds=0)
    first = run("a cat", ImagePrompt(prompt="a dog", quantity=2), storage=once)
    assert statuses(first) == ["failed", "failed"]
    assert "2 of 2 images could not be copied" in str(first.outcomes[1].message)
    assert "answered 404" in str(first.outcomes[1].message)
    assert (first.credits_used, first.credits_without_image) == (3, 3)
    adds_up(first, sandbox, folder)
    sandbox.url_lifetime_seconds = 60
    again = run("a cat", ImagePrompt(prompt="a dog", quantity=2))
    assert statuses(again) == ["stored", "stored"]
    assert (again.credits_used, again.credits_reused, sandbox.account.posts) == (0, 3, 2)
    adds_up(again, sandbox, folder)


def test_access_lost_in_mid_run(
    generator: NanoBananaGenerator, sandbox: Sandbox, make_bucket: MakeBucket, s3: LocalS3
) -> None:
    """What is paid is not lost: the records, or at worst the log, say where the images are."""
    puts: list[str] = []

    def fault(seen: Seen) -> Reply | None:
        if seen.method == "PUT":
            puts.append(seen.path)
            if any("/images/" in path for path in puts[:-1]) and "/images/" in seen.path:
                return s3_error(403, "AccessDenied")
        return None

    with FaultyS3(s3.endpoint_url) as proxy:
        proxy.fault = fault
        bucket = make_bucket(endpoint_url=proxy.url)
        settings: dict[str, Any] = {"generator": generator, "batch": "b", "prompts": [*"abcdef"]}
        sandbox.latency = (0.4, 0.4)
        with pytest.raises(RunFailed, match="access is denied") as caught:
            generate_images(bucket=bucket, **settings)
        report = caught.value.report
        assert report.stored == 1
        assert report.skipped >= 2
        assert report.credits_used == sandbox.account.charged
        proxy.fault = lambda _: None
        posts = sandbox.account.posts
        again = generate_images(bucket=bucket, **settings)
        assert again.stored == 6
        assert sandbox.account.posts - posts == report.skipped
        folder = s3.folder / bucket.bucket_name / bucket.bucket_folder
        adds_up(again, sandbox, folder)


def test_storage_options_that_the_store_refuses(
    generator: NanoBananaGenerator, sandbox: Sandbox, make_bucket: MakeBucket, moto_url: str
) -> None:
    """They concern images alone, so that the first one tells; what was paid by then is copied later."""
    bucket = make_bucket(endpoint_url=moto_url)
    settings: dict[str, Any] = {
        "generator": generator,
        "bucket": bucket,
        "batch": "b",
        "prompts": [*"abcdef"],
    }
    sandbox.latency = (0.4, 0.4)
    with pytest.raises(RunFailed, match="correct storage_class") as caught:
        generate_images(storage=StorageOptions(storage_class="WARM_AND_DRY"), **settings)
    report = caught.value.report
    assert (report.stored, report.credits_used) == (0, sandbox.account.charged)
    assert report.skipped >= 2
    again = generate_images(storage=StorageOptions(storage_class="STANDARD_IA"), **settings)
    assert (again.stored, sandbox.account.posts) == (6, 6)


def test_an_answer_that_cannot_be_recorded_is_said_in_the_log(
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    make_bucket: MakeBucket,
    s3: LocalS3,
    caplog: pytest.LogCaptureFixture,
    waiting: Callable[..., None],
) -> None:
    waiting(write_again_for=0.5)

    def fault(seen: Seen) -> Reply | None:
        lost = seen.method == "PUT" and "/records/" in seen.path and b'"generation"' in seen.body
        return s3_error(403, "AccessDenied") if lost else None

    with FaultyS3(s3.endpoint_url) as proxy:
        proxy.fault = fault
        bucket = make_bucket(endpoint_url=proxy.url)
        report = generate_images(prompts=["a"], generator=generator, bucket=bucket, batch="b")
    (path,) = sandbox.images
    assert any(sandbox.url(path) in r.getMessage() for r in caplog.records if r.levelname == "ERROR")
    assert (report.stored, report.credits_used) == (1, 1)
    assert "could not be written" in str(report.outcomes[0].message)


def test_a_record_that_fails_for_a_moment_costs_nothing(
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    make_bucket: MakeBucket,
    s3: LocalS3,
) -> None:
    left = [7]  # more than boto3 tries on its own

    def fault(seen: Seen) -> Reply | None:
        if seen.method == "PUT" and b'"generated"' in seen.body and left[0]:
            left[0] -= 1
            return Reply(reset=True)
        return None

    with FaultyS3(s3.endpoint_url) as proxy:
        proxy.fault = fault
        report = generate_images(
            prompts=["a"], generator=generator, bucket=make_bucket(endpoint_url=proxy.url), batch="b"
        )
    assert report.stored == 1
    assert left == [0]


@pytest.mark.parametrize(
    "what", [b'"asked"', b'"stored"', b"<!doctype html>"], ids=["claim", "record", "page"]
)
def test_what_is_damaged_on_its_way_is_sent_again(
    generator: NanoBananaGenerator, sandbox: Sandbox, make_bucket: MakeBucket, s3: LocalS3, what: bytes
) -> None:
    left = [2]

    def fault(seen: Seen) -> Reply | None:
        if seen.method == "PUT" and what in seen.body.lower() and left[0]:
            left[0] -= 1
            return s3_error(400, "BadDigest")
        return None

    with FaultyS3(s3.endpoint_url) as proxy:
        proxy.fault = fault
        bucket = make_bucket(endpoint_url=proxy.url)
        report = generate_images(prompts=["a"], generator=generator, bucket=bucket, batch="b")
    assert left == [0]
    assert (report.stored, sandbox.account.posts) == (1, 1)
    assert report.gallery_uri is not None


def test_an_intent_that_cannot_be_written_keeps_the_request_from_leaving(
    generator: NanoBananaGenerator, sandbox: Sandbox, make_bucket: MakeBucket, s3: LocalS3
) -> None:
    with FaultyS3(s3.endpoint_url) as proxy:
        proxy.fault = lambda s: s3_error(403, "AccessDenied") if b'"asked"' in s.body else None
        with pytest.raises(RunFailed, match="access is denied"):
            generate_images(
                prompts=["a", "b", "c"], generator=generator, bucket=make_bucket(endpoint_url=proxy.url)
            )
    assert sandbox.account.posts == 0


def test_pages_that_cannot_be_written_fail_nothing(
    generator: NanoBananaGenerator, make_bucket: MakeBucket, s3: LocalS3
) -> None:
    with FaultyS3(s3.endpoint_url) as proxy:
        proxy.fault = lambda s: (
            s3_error(403, "AccessDenied") if s.path.endswith(("index.html", ".jsonl")) else None
        )
        report = generate_images(
            prompts=["a"], generator=generator, bucket=make_bucket(endpoint_url=proxy.url)
        )
    assert (report.stored, report.gallery_uri, report.manifest_uri) == (1, None, None)


def test_a_balance_that_cannot_be_read_is_said(
    run: Callable[..., RunReport], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_the_key(_: Progress) -> None:
        if sandbox.account.posts:
            sandbox.api_key = "nb_changed"

    with watch_progress(lose_the_key):
        report = run("a")
    assert (report.balance_after, report.credits_unexplained) == (None, None)
    assert report.remaining_credits == 99, "as the last answer said"


def test_somebody_elses_spending_is_shown(run: Callable[..., RunReport], sandbox: Sandbox) -> None:
    def spend(progress: Progress) -> None:
        if progress.status == "stored":
            sandbox.account.credits -= 5

    with watch_progress(spend):
        report = run("a")
    assert report.credits_used == 1
    assert report.credits_unexplained == 5


@pytest.mark.parametrize(
    ("fault", "fail_on", "state"),
    [
        (None, "error", "COMPLETED"),
        ("warning", "error", "COMPLETED"),
        ("warning", "warning", "FAILED"),
        ("failed", "error", "FAILED"),
        ("reset_after", "error", "FAILED"),
        ("failed", "never", "COMPLETED"),
    ],
)
def test_final_states(
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    fault: str | None,
    fail_on: Any,
    state: str,
) -> None:
    sandbox.faults.queue(None, fault)
    final = generate_images(
        prompts=["a", "b"], generator=generator, bucket=bucket, fail_on=fail_on, return_state=True
    )
    assert final.type.value == state
    assert final.name == state.capitalize(), "automations match the name"
    assert final.message
    assert final.message.startswith("1 stored, 1" if fault else "2 stored; 2 credits used, 98 left")
    if state == "FAILED":
        with pytest.raises(RunFailed) as caught:
            final.result()
        assert str(caught.value) == final.message
        assert caught.value.report.stored == 1
        assert caught.value.report.gallery_uri
    else:
        assert isinstance(final.result(), RunReport)


def test_it_runs_inside_other_flows(generator: NanoBananaGenerator, bucket: S3Bucket) -> None:
    @flow
    def platform() -> int:
        return generate_images(prompts=["a"], generator=generator, bucket=bucket).stored

    assert platform() == 1


def test_what_people_see_in_prefect(
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"seen-{bucket.bucket_folder}"
    long = "x" * 100
    finish = sandbox.finish

    def long_ones_fail(row: Any, _: str | None) -> None:
        finish(row, "failed" if row.prompt == long else None)

    monkeypatch.setattr(sandbox, "finish", long_ones_fail)
    state = generate_images.with_options(flow_run_name=name)(
        prompts=["a cat", ImagePrompt(prompt="a naked lunch", name="named"), long],
        generator=generator,
        bucket=bucket,
        batch=name,
        fail_on="never",
        return_state=True,
    )
    report = state.result()
    with get_client(sync_client=True) as client:
        chosen = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        end = time.monotonic() + 60
        final: list[Any] = []
        while len(final) < 5 and time.monotonic() < end:  # task runs reach the server as events
            time.sleep(0.3)
            runs = client.read_task_runs(flow_run_filter=chosen)
            final = [r for r in runs if r.state is not None and r.state.is_final()]
        assert sorted((r.name, r.state.name, r.state.type.value) for r in final) == [
            ("a cat", "Completed", "COMPLETED"),
            ("a cat", "Completed", "COMPLETED"),
            ("named", "Warning", "COMPLETED"),
            ("publish", "Completed", "COMPLETED"),
            ("x" * 57 + "...", "Failed", "FAILED"),
        ]
        key = ArtifactFilterKey(like_=f"nanobanana-{name}%")
        artifacts = {a.key: a for a in client.read_artifacts(artifact_filter=ArtifactFilter(key=key))}
    gallery = artifacts[f"nanobanana-{name}"]
    assert gallery.type == "markdown"
    assert str(gallery.description).startswith(f"{state.message}.".replace("$", "&#36;"))
    assert "data:image/webp;base64," in str(gallery.description)
    assert "data:image/webp;base64," in str(gallery.data)
    assert "| stored | 1 | 1 |" in str(artifacts[f"nanobanana-{name}-credits"].data)
    rows = json.loads(str(artifacts[f"nanobanana-{name}-results"].data))
    assert [row["status"] for row in rows] == ["stored", "warning", "failed"]
    progress = artifacts[f"nanobanana-{name}-progress"]
    assert (progress.type, float(str(progress.data))) == ("progress", 100.0)
    assert str(progress.description).startswith("3 of 3 prompts: 1 stored, 1 warning, 1 failed; ")
    assert report.batch == name


def test_progress_is_told(run: Callable[..., RunReport], sandbox: Sandbox) -> None:
    told: list[Progress] = []
    with watch_progress(told.append):
        run("a", "nude", ImagePrompt(prompt="c", quantity=2))
    assert told[0].done == 0
    assert [p.done for p in told] == [0, 1, 2, 3]
    last = told[-1]
    assert last.counts == {"stored": 2, "warning": 1}
    assert (last.credits_used, last.images, last.seconds_left) == (4, 3, 0)
    assert set(last.counts) <= set(get_args(OutcomeStatus))


def test_a_broken_display_costs_no_picture(run: Callable[..., RunReport]) -> None:
    def broken(_: Progress) -> None:
        raise RuntimeError("no terminal")

    with watch_progress(broken):
        assert run("a", "b").stored == 2


def test_copies_overlap_generation_and_hold_no_slot(
    run: Callable[..., RunReport], sandbox: Sandbox, wait_for: Callable[..., None]
) -> None:
    """No image comes before the next prompt is being generated."""
    fetched: list[str] = []

    class Watched(dict[str, bytes]):
        def get(self, key: str, default: Any = None) -> Any:
            fetched.append(key)
            wait_for(lambda: len(sandbox.account.rows) >= min(3, len(fetched) + 1))
            return super().get(key, default)

    sandbox.images = Watched()
    report = run("a", "b", "c")
    assert report.stored == len(fetched) == 3


def test_all_slots_are_used(
    run: Callable[..., RunReport],
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    wait_for: Callable[..., None],
) -> None:
    sandbox.account.limit = 3
    generator.credentials.max_concurrent_requests = 3
    sandbox.running.clear()
    with ThreadPoolExecutor(1) as pool:
        finished = pool.submit(contextvars.copy_context().run, run, *"abcdef")
        wait_for(lambda: sandbox.account.open == 3)
        sandbox.running.set()
        assert finished.result().stored == 6
    assert sandbox.account.most_open == 3
    assert sandbox.account.refusals == 0


def test_a_limit_smaller_than_believed_is_learned(
    run: Callable[..., RunReport], generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    generator.credentials.max_concurrent_requests = 3
    sandbox.latency = (0.2, 0.2)
    report = run(*"abcdef")
    assert report.stored == 6
    assert sandbox.account.refusals <= 2
    assert generator.credentials.slots.limit == 1


def test_prompts_from_s3(
    run: Callable[..., RunReport], bucket: S3Bucket, make_bucket: MakeBucket
) -> None:
    opened = ObjectStore(bucket)
    opened.put(opened.key("lists/p.csv"), b"prompt\na cat\n", "text/csv")
    report = run(prompts_from=f"s3://pictures/{bucket.bucket_folder}/lists/p.csv")
    assert report.stored == 1


def test_a_store_that_goes_away_while_a_list_is_read(make_bucket: MakeBucket) -> None:
    with pytest.raises(StorageError, match="cannot be reached"):
        ObjectStore(make_bucket(endpoint_url="http://127.0.0.1:1")).uris.read("s3://pictures/p.csv")


def test_an_interrupted_run_keeps_what_it_paid_for(
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    folder: Path,
    wait_for: Callable[..., None],
) -> None:
    """Ctrl-C in mid-run: nothing new is asked, the answer under way is waited for and kept."""
    sandbox.latency = (0.4, 0.4)

    def interrupt() -> None:
        wait_for(lambda: bool(sandbox.account.rows))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt) as stopped:
        generate_images(prompts=[*"abcdef"], generator=generator, bucket=bucket, batch="b")
    paid = sandbox.account.charged
    assert 1 <= paid < 6
    left = f"stopped: {paid} stored, {6 - paid} not asked; run the same batch again to go on"
    assert stopped.value.__notes__ == [left]
    again = generate_images(prompts=[*"abcdef"], generator=generator, bucket=bucket, batch="b")
    assert (again.stored, again.unknown, again.credits_reused) == (6, 0, paid)
    assert sandbox.account.charged == 6
    adds_up(again, sandbox, folder)


def test_errors_of_ours_have_one_root() -> None:
    for error in (InvalidInput, BucketNotUsable, LedgerError, RunFailed, AuthenticationFailed):
        assert issubclass(error, NanoBananaError)


def test_credentials_are_shared_by_value(sandbox: Sandbox) -> None:
    same = [
        NanoBananaCredentials(api_key=SecretStr(sandbox.api_key), base_url=sandbox.base_url)
        for _ in range(2)
    ]
    assert same[0].slots is same[1].slots


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, {"credits", "prompt"}),
        ({"prompts": "never"}, {"credits"}),
        ({"acl": "public-read"}, set()),
        ({"acl": "public-read", "prompts": "always"}, {"prompt"}),
        ({"acl": "bucket-owner-full-control"}, {"credits", "prompt"}),
    ],
)
def test_images_for_everybody_say_neither_cost_nor_prompt(
    generator: NanoBananaGenerator,
    make_bucket: MakeBucket,
    moto_url: str,
    options: dict[str, Any],
    told: set[str],
) -> None:
    bucket = make_bucket(endpoint_url=moto_url, user="x" * 5, secret="y" * 9)
    storage = StorageOptions(**options)
    report = generate_images(
        prompts=["a secret fox"], generator=generator, bucket=bucket, batch="b", storage=storage
    )
    found = ObjectStore(bucket).head(report.outcomes[0].images[0].key)
    assert found is not None
    assert set(found.metadata) & {"credits", "prompt"} == told
    assert set(found.metadata) >= {"sha256", "model", "generation-id"}
    assert ("fox" in str(found.metadata)) is ("prompt" in told)
