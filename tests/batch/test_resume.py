"""Never twice: runs that resume, outcomes that are settled, and what is asked again on request."""

from __future__ import annotations

import gc
import json
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flow_checks import adds_up, statuses
from prefect_aws import S3Bucket
from servers import FaultyS3, Reply, Seen, s3_error

from prefect_nanobanana import (
    ImagePrompt,
    InvalidInput,
    NanoBananaCredentials,
    NanoBananaGenerator,
    PendingReport,
    Progress,
    RunFailed,
    RunReport,
    StorageOptions,
    watch_progress,
)
from prefect_nanobanana.batch import _pending as _pending_plans
from prefect_nanobanana.batch import plan_pending
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.flows import copy_pending, generate_images
from prefect_nanobanana.images._download import Downloader
from prefect_nanobanana.s3._store import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.account import GenerationRow
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    read = (json.loads(path.read_text("utf-8")) for path in (folder / "b/records").iterdir())
    return {record["prompt"]["prompt"]: record for record in read}


# The modes, through the whole flow.


@pytest.mark.parametrize("mode", ["async", "stream"])
def test_every_mode_through_the_flow(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox, folder: Path, mode: Any
) -> None:
    generator.mode = mode
    sandbox.latency = (0.05, 0.1)
    told: list[Progress] = []
    with watch_progress(told.append):
        report = run("a", "nude", ImagePrompt(prompt="c", model="nanobanan-2"), "d")
    assert statuses(report) == ["stored", "warning", "stored", "stored"]
    assert report.credits_used == 5 == sandbox.account.charged
    assert report.credits_unexplained == 0
    assert {o.generation.mode for o in report.outcomes if o.generation} == {mode}
    assert any(p.percent == 5 for p in told) is (mode == "stream")
    assert sandbox.account.refusals == 0
    adds_up(report, sandbox, folder)
    posts = sandbox.account.posts
    again = run("a", "nude", ImagePrompt(prompt="c", model="nanobanan-2"), "d")
    assert (sandbox.account.posts, again.credits_used, again.credits_reused) == (posts, 0, 5)


def test_stream_mode_refuses_several_images_with_the_place(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    generator.mode = "stream"
    with pytest.raises(InvalidInput, match="prompts, row 2: quantity: stream mode makes one image"):
        run("a", ImagePrompt(prompt="b", quantity=2))
    assert sandbox.account.posts == 0


# Async generations that were not over when the run was.


def test_what_is_still_running_is_picked_up_by_the_next_run(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox, folder: Path
) -> None:
    generator.mode = "async"
    generator.credentials.request_timeout_seconds = 1.5
    sandbox.running.clear()
    report = run("a", "nude", "c")
    assert statuses(report) == ["unknown"] * 3
    assert all("its id is kept" in str(o.message) for o in report.outcomes)
    assert report.credits_used == 3 == sandbox.account.charged
    assert (report.credits_unexplained, report.credits_at_risk) == (0, 0)
    sandbox.running.set()
    generator.mode = "sync"  # whatever the mode is now
    again = run("a", "nude", "c")
    assert statuses(again) == ["stored", "warning", "stored"]
    assert (again.credits_used, again.credits_reused, sandbox.account.posts) == (0, 3, 3)
    adds_up(again, sandbox, folder)


def test_a_generation_that_the_api_has_forgotten_stays_unknown(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox, folder: Path
) -> None:
    generator.mode = "async"
    generator.credentials.request_timeout_seconds = 1.5
    sandbox.running.clear()
    run("a")
    sandbox.account._rows.clear()
    again = run("a")
    assert statuses(again) == ["unknown"]
    assert "not found" in str(again.outcomes[0].message)
    assert _records(folder)["a"]["state"] == "unknown"
    resent = run("a", ask_again=["unknown"])
    sandbox.running.set()
    assert statuses(resent) in (["stored"], ["unknown"])
    assert sandbox.account.posts == 2


# Outcomes that are not known, and the balance.


def test_a_request_that_cost_nothing_is_proven_so_and_sent_again(
    run: Run, sandbox: Sandbox, folder: Path
) -> None:
    sandbox.faults.queue(None, "reset_before", "reset_before")
    report = run("a", "b", "c")
    assert statuses(report) == ["stored"] * 3
    assert (report.credits_used, report.credits_at_risk, sandbox.account.posts) == (3, 0, 5)
    adds_up(report, sandbox, folder)


def test_a_request_that_is_lost_again_and_again_is_not_sent_for_ever(run: Run, sandbox: Sandbox) -> None:
    sandbox.faults.queue(*["reset_before"] * 10)
    report = run("a")
    assert statuses(report) == ["unknown"]
    assert sandbox.account.posts == 3


def test_a_balance_that_somebody_else_spends_from_proves_nothing(run: Run, sandbox: Sandbox) -> None:
    finish = sandbox.finish

    def spend(row: GenerationRow, fault: str | None) -> None:
        finish(row, fault)
        if len(sandbox.account.rows) == 1:
            sandbox.account.credits -= 7

    sandbox.finish = spend  # type: ignore[method-assign]
    sandbox.faults.queue(None, "reset_before")
    report = run("a", "b", "c")
    assert sorted(statuses(report)) == ["stored", "stored", "unknown"]
    assert (report.credits_used, report.credits_unexplained, report.credits_at_risk) == (2, 7, 1)
    assert report.credits_of_others == 6, "one of the seven may have been ours"
    assert report.credits_by_status == {
        **dict.fromkeys(("warning", "failed", "unknown", "skipped", "reused"), 0),
        "stored": 2,
    }


def test_credits_that_are_bought_meanwhile_prove_nothing(run: Run, sandbox: Sandbox) -> None:
    finish = sandbox.finish

    def buy(row: GenerationRow, fault: str | None) -> None:
        finish(row, fault)
        if len(sandbox.account.rows) == 1:
            sandbox.account.credits += 50

    sandbox.finish = buy  # type: ignore[method-assign]
    sandbox.faults.queue(None, "reset_after")
    report = run("a", "b", "c")
    assert report.unknown == 1
    assert sandbox.account.posts == 3


def test_a_balance_that_cannot_be_read_proves_nothing(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    seen: list[str] = []

    def refuse(request: Seen) -> Reply | None:
        if not request.path.endswith("/credits"):
            return None
        seen.append(request.path)
        return Reply(b"{}", 401) if len(seen) > 1 else None

    with FaultyS3(sandbox.origin) as api:
        api.fault = refuse
        generator.credentials.base_url = f"{api.url}/api/v1"
        generator.credentials.image_hosts = [sandbox.origin]
        sandbox.faults.queue("reset_before")
        report = run("a", "b")
    assert sorted(statuses(report)) == ["stored", "unknown"]
    assert (report.credits_unexplained, report.credits_of_others) == (None, None)
    assert sandbox.account.posts == 2


def test_the_balance_is_waited_for_until_the_request_must_have_ended(
    run: Run, sandbox: Sandbox, waiting: Callable[..., None], wait_for: Callable[..., None]
) -> None:
    """An account that is charged only when the generation ends."""
    waiting(settle_after=4.0)

    def charge_late() -> None:
        wait_for(lambda: sandbox.account.posts == 1)
        time.sleep(0.5)
        sandbox.account.credits -= 1

    sandbox.faults.queue("reset_before")
    charging = threading.Thread(target=charge_late)
    charging.start()
    report = run("a")
    charging.join()
    assert statuses(report) == ["unknown"]
    assert sandbox.account.posts == 1


def test_unknown_outcomes_are_asked_again_once_per_run(run: Run, sandbox: Sandbox) -> None:
    """Who accepts the risk pays once more, and not as often as a run has rounds."""
    sandbox.faults.queue(*["cut"] * 4)
    for posts in (1, 2, 3):
        report = run("a", ask_again=["unknown"])
        assert (statuses(report), report.credits_at_risk) == (["unknown"], 1)
        assert (sandbox.account.posts, sandbox.account.charged) == (posts, posts)


@pytest.mark.parametrize("former", [{"on_unknown": "resend"}, {"retry_warnings": True}])
def test_the_former_names_of_asking_again_work_with_a_warning(
    run: Run, sandbox: Sandbox, former: dict[str, Any]
) -> None:
    sandbox.faults.queue("warning" if "retry_warnings" in former else "cut")
    run("a")
    with pytest.warns(FutureWarning, match="is deprecated.* write ask_again="):
        assert statuses(run("a", **former)) == ["stored"]
    assert sandbox.account.posts == 2


def test_resending_what_an_earlier_run_left_unknown(run: Run, sandbox: Sandbox, folder: Path) -> None:
    sandbox.faults.queue("cut")
    assert statuses(run("a")) == ["unknown"]
    kept = run("a")
    assert (statuses(kept), kept.outcomes[0].credits_at_risk, kept.outcomes[0].reused) == (
        ["unknown"],
        1,
        True,
    )
    assert kept.credits_at_risk == 0, "that was not this run"
    again = run("a", ask_again=["unknown"])
    assert (statuses(again), again.credits_used, again.credits_at_risk) == (["stored"], 1, 0)
    assert sandbox.account.charged == 2


def test_a_request_that_may_still_be_answered_is_not_resent(
    run: Run, sandbox: Sandbox, bucket: S3Bucket, folder: Path
) -> None:
    sandbox.faults.queue("cut")
    run("a")
    (path,) = (folder / "b/records").iterdir()
    record = Record.model_validate_json(path.read_bytes())
    record = record.model_copy(update={"state": "asked"})  # as if another run were waiting for it
    path.write_text(record.model_dump_json())
    assert statuses(run("a", ask_again=["unknown"])) == ["unknown"]
    record = record.model_copy(update={"asked_at": datetime.now(UTC) - timedelta(hours=1)})
    path.write_text(record.model_dump_json())
    assert statuses(run("a", ask_again=["unknown"])) == ["stored"]


def test_what_the_api_has_named_is_never_proven_free(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    """Polls that answer 404 for a while say nothing about the submission, which was paid."""
    generator.mode = "async"
    answers = 0

    def forget(request: Seen) -> Reply | None:
        nonlocal answers
        if "?id=" not in request.path or answers == 3:
            return None
        answers += 1
        return Reply(b'{"error": "not found"}', 404)

    with FaultyS3(sandbox.origin) as api:
        api.fault = forget
        generator.credentials.base_url = f"{api.url}/api/v1"
        generator.credentials.image_hosts = [sandbox.origin]
        report = run("a")
        assert statuses(report) == ["unknown"]
        assert (report.credits_used, report.credits_unexplained, report.credits_at_risk) == (1, 0, 0)
        again = run("a")
    assert (statuses(again), again.credits_reused, sandbox.account.posts) == (["stored"], 1, 1)


def test_the_wait_counts_from_when_the_answer_was_given_up(
    run: Run, generator: NanoBananaGenerator, sandbox: Sandbox, waiting: Callable[..., None]
) -> None:
    """A request that timed out was open until then, and may be charged at its end."""
    waiting(settle_after=2.0)
    generator.credentials.request_timeout_seconds = 3

    def charge_at_the_end(**asked: Any) -> GenerationRow:
        row = charge(**asked)
        sandbox.account.credits += row.credits
        row.credits = 0

        def end() -> None:
            time.sleep(4)  # after the time-out, and more than 2 s after the request
            sandbox.account.credits -= 1
            row.credits = 1

        threading.Thread(target=end).start()
        return row

    charge, sandbox.account.charge = sandbox.account.charge, charge_at_the_end  # type: ignore[method-assign]
    sandbox.faults.queue("stall")
    report = run("a")
    assert (statuses(report), sandbox.account.posts) == (["unknown"], 1)


def test_an_old_id_says_nothing_about_a_new_request(run: Run, sandbox: Sandbox) -> None:
    refund = sandbox.finish

    def fail_for_free(row: GenerationRow, fault: str | None) -> None:
        refund(row, fault)
        if fault == "failed":
            sandbox.account.refund(row)
            row.status = "failed"

    sandbox.finish = fail_for_free  # type: ignore[method-assign]
    sandbox.faults.queue("failed")
    assert statuses(run("a")) == ["failed"]
    sandbox.faults.queue("cut")
    assert statuses(run("a")) == ["unknown"]
    assert statuses(run("a")) == ["unknown"], "the failure was the first request's"
    assert (sandbox.account.posts, sandbox.account.charged) == (2, 1)


def test_what_was_proven_free_leaves_room_under_the_ceiling(run: Run, sandbox: Sandbox) -> None:
    sandbox.faults.queue("reset_before")
    report = run("a", "b", "c", max_credits=3)
    assert (statuses(report), report.credits_used) == (["stored"] * 3, 3)


# What is asked again, and paid again, on request.


def test_warnings_and_paid_failures_are_asked_again_on_request_only(
    run: Run, sandbox: Sandbox, folder: Path
) -> None:
    sandbox.faults.queue(None, "warning", "failed")
    assert sorted(statuses(run("a", "b", "c"))) == ["failed", "stored", "warning"]
    assert sorted(statuses(run("a", "b", "c"))) == ["failed", "stored", "warning"]
    assert sandbox.account.posts == 3
    second = run("a", "b", "c", ask_again=["warnings"])
    assert sorted(statuses(second)) == ["failed", "stored", "stored"]
    assert (second.credits_used, second.credits_reused) == (1, 2)
    third = run("a", "b", "c", ask_again=["failed"])
    assert statuses(third) == ["stored"] * 3
    assert (third.credits_used, third.credits_reused) == (1, 3), "one cost twice, and that is told"
    assert sandbox.account.charged == 5
    fourth = run("a", "b", "c", ask_again=["failed", "warnings"])
    assert (fourth.credits_used, fourth.credits_reused, sandbox.account.posts) == (0, 5, 5)


def test_after_thirty_percent_failures_exactly_those_are_asked_again(
    run: Run, sandbox: Sandbox, folder: Path
) -> None:
    failing = set(random.Random(3).sample(range(20), 6))
    sandbox.faults.queue(*["400" if n in failing else None for n in range(20)])
    prompts = [f"p{n}" for n in range(20)]
    report = run(*prompts)
    assert (report.stored, report.failed) == (14, 6)
    posts = sandbox.account.posts
    again = run(*prompts)
    assert sandbox.account.posts - posts == 6
    assert (again.stored, again.credits_used, again.credits_reused) == (20, 6, 14)
    adds_up(again, sandbox, folder)


def test_what_was_to_be_asked_again_and_was_not_is_as_it_was(
    run: Run, sandbox: Sandbox, folder: Path
) -> None:
    sandbox.faults.queue("warning", "warning")
    run("a", "b")
    before = _records(folder)
    sandbox.faults.queue("400", "402")
    report = run("a", "b", ask_again=["warnings"])
    assert statuses(report) == ["warning", "warning"]
    assert (report.credits_used, report.credits_reused) == (0, 2)
    for prompt, record in _records(folder).items():
        same = ("state", "generation", "generation_id", "credits_used", "attempt")
        assert {k: record.get(k) for k in same} == {k: before[prompt].get(k) for k in same}
    refused = run("a", "b", ask_again=["warnings"], max_credits=0)
    assert (statuses(refused), refused.credits_reused) == (["warning", "warning"], 2)
    assert run("a", "b").credits_reused == 2
    assert sandbox.account.charged == 2


def test_images_of_an_earlier_request_stay_when_it_is_made_again(
    run: Run, generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, folder: Path
) -> None:
    """Three of four images were stored, the fourth is lost; then all four are asked for again."""
    four = ImagePrompt(prompt="a", quantity=4)

    class ThreeOfFour(dict[str, bytes]):
        def get(self, key: str, default: Any = None) -> Any:
            return default if "-4." in key else super().get(key, default)

    sandbox.images = ThreeOfFour()
    assert statuses(run(four, storage=ONE_TRY)) == ["failed"]
    _age(folder / "b/records", "a", days=16)
    assert _pending(generator, bucket, storage=ONE_TRY).lost == 1
    sandbox.images = {}
    report = run(four, ask_again=["failed"])
    assert (statuses(report), report.images, report.credits_used) == (["stored"], 7, 4)
    assert len(list((folder / "b/images").iterdir())) == 7
    again = run(four)
    assert (again.stored, again.images, again.credits_reused) == (1, 7, 8)


# Prefect's own retries.


def test_a_flow_that_prefect_retries_resumes_by_itself(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, folder: Path
) -> None:
    """Without a batch name: the flow run's id stays the same."""
    sandbox.faults.queue(None, "400", "cut")
    retried = generate_images.with_options(retries=1, retry_delay_seconds=0)
    with pytest.raises(RunFailed) as caught:
        retried(prompts=["a", "b", "c"], generator=generator, bucket=bucket)
    report = caught.value.report
    assert sorted(statuses(report)) == ["stored", "stored", "unknown"]
    assert (sandbox.account.posts, report.credits_used, report.credits_reused) == (4, 1, 1)
    assert len([path for path in folder.iterdir() if path.name != "nanobanana-credits"]) == 1


def test_retries_of_prefect_do_not_ask_again_what_was_asked_again_already(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, run: Run
) -> None:
    run("nude")
    retried = generate_images.with_options(retries=2, retry_delay_seconds=0)
    settings: dict[str, Any] = {"generator": generator, "bucket": bucket, "batch": "b"}
    with pytest.raises(RunFailed):
        retried(prompts=["nude"], ask_again=["warnings"], fail_on="warning", **settings)
    assert sandbox.account.charged == 2


# Images that are still owed.


ONE_TRY = StorageOptions(retry_for_seconds=0)


def _pending(generator: NanoBananaGenerator, bucket: S3Bucket, **settings: Any) -> PendingReport:
    try:
        report = copy_pending(generator=generator, bucket=bucket, **settings)
    except RunFailed as error:
        report = error.report
    assert isinstance(report, PendingReport)
    return report


def test_nothing_is_owed(run: Run, generator: NanoBananaGenerator, bucket: S3Bucket) -> None:
    run("a")
    assert _pending(generator, bucket) == PendingReport(
        batches=(), generations=0, images=0, waiting=0, lost=0, credits_lost=0
    )


def test_images_that_are_owed_are_copied_oldest_first(
    run: Run,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, bytes] = {}
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "images", _Hidden(made))
        for batch in ("b", "deep/er"):
            report = run("z", ImagePrompt(prompt="y", quantity=2), batch=batch, storage=ONE_TRY)
            assert report.failed == 2
    sandbox.images = made
    oldest = _age(folder / "b/records", "y", days=3)
    order: list[tuple[str, str]] = []
    _watch(monkeypatch, order)
    copied = _pending(generator, bucket)
    assert (copied.batches, copied.generations, copied.images) == (("b", "deep/er"), 4, 6)
    assert (copied.waiting, copied.lost, copied.messages) == (0, 0, ())
    assert order[0] == ("b", oldest)
    assert sandbox.account.posts == 4
    for batch in ("b", "deep/er"):
        rows = (folder / batch / "manifest.jsonl").read_text().splitlines()
        assert [json.loads(row)["prompt"]["prompt"] for row in rows] == ["z", "y"]
        assert [len(json.loads(row)["images"]) for row in rows] == [1, 2]
        assert (folder / batch / "index.html").read_text().count("data:image/webp") == 3
    again = run("z", ImagePrompt(prompt="y", quantity=2))
    assert (again.stored, again.credits_used, again.credits_reused) == (2, 0, 3)


class _Hidden(dict[str, bytes]):
    """Pictures that are made, and not served."""

    def __init__(self, made: dict[str, bytes]) -> None:
        super().__init__()
        self.made = made

    def __setitem__(self, key: str, value: bytes) -> None:
        self.made[key] = value


def _age(records: Path, prompt: str, days: float) -> str:
    """Make a record older than it is; returns its key."""
    for path in records.iterdir():
        record = Record.model_validate_json(path.read_bytes())
        if record.prompt.prompt == prompt:
            record = record.model_copy(update={"asked_at": datetime.now(UTC) - timedelta(days=days)})
            path.write_text(record.model_dump_json())
            return record.key
    raise AssertionError(prompt)


def _unlose(records: Path, prompt: str) -> None:
    for path in records.iterdir():
        record = Record.model_validate_json(path.read_bytes())
        if record.prompt.prompt == prompt:
            path.write_text(record.model_copy(update={"state": "generated"}).model_dump_json())


def _watch(monkeypatch: pytest.MonkeyPatch, order: list[tuple[str, str]]) -> None:
    from prefect_nanobanana.batch._copying import Copying

    finish = Copying.finish

    def watched(self: Any, job: Any) -> Any:
        order.append((job.planned.ledger.batch, job.record.key))
        return finish(self, job)

    monkeypatch.setattr(Copying, "finish", watched)


def test_what_is_still_running_is_asked_for(
    run: Run, generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, folder: Path
) -> None:
    generator.mode = "async"
    generator.credentials.request_timeout_seconds = 1.5
    sandbox.running.clear()
    run("a", "nude")
    waiting = _pending(generator, bucket)
    assert (waiting.generations, waiting.waiting, waiting.images) == (2, 2, 0)
    assert "was not seen to end" in waiting.messages[0]
    sandbox.running.set()
    report = _pending(generator, bucket, batches=["b"])
    assert (report.generations, report.waiting, report.images, report.lost) == (2, 0, 1, 0)
    assert sandbox.account.posts == 2
    assert sorted(r["state"] for r in _records(folder).values()) == ["stored", "warning"]


def test_what_is_lost_is_said_once(
    run: Run,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    sandbox: Sandbox,
    folder: Path,
) -> None:
    sandbox.images = _Hidden({})
    run("young", ImagePrompt(prompt="old", quantity=2), storage=ONE_TRY)
    _age(folder / "b/records", "old", days=15.1)
    with pytest.raises(
        RunFailed, match=r"0 images copied, 1 generation waiting, 1 generation lost \(2 cr"
    ):
        copy_pending(generator=generator, bucket=bucket, batches=["b"], storage=ONE_TRY)
    _unlose(folder / "b/records", "old")
    report = _pending(generator, bucket, storage=ONE_TRY)
    assert (report.generations, report.images, report.waiting, report.lost) == (2, 0, 1, 1)
    assert report.credits_lost == 2
    assert "are lost" in report.messages[0]
    assert "old" in report.messages[0]
    again = _pending(generator, bucket, storage=ONE_TRY)
    assert (again.generations, again.waiting, again.lost) == (1, 1, 0)
    assert statuses(run("young", ImagePrompt(prompt="old", quantity=2), storage=ONE_TRY)) == [
        "failed",
        "failed",
    ]
    assert sandbox.account.posts == 2
    assert _pending(generator, bucket, batches=["other"]).generations == 0


@pytest.mark.parametrize("fault", ["store", "host", "address"])
def test_what_may_still_come_is_not_lost(
    run: Run,
    generator: NanoBananaGenerator,
    make_bucket: Callable[..., S3Bucket],
    s3: LocalS3,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    """Old as it is: nobody has said that the image is gone."""
    made: dict[str, bytes] = {}
    with FaultyS3(s3.endpoint_url) as proxy:
        bucket = make_bucket(endpoint_url=proxy.url)
        with monkeypatch.context() as patch:
            patch.setattr(sandbox, "images", _Hidden(made))
            run("a", bucket=bucket, storage=ONE_TRY)
        sandbox.images = made
        _age(s3.folder / bucket.bucket_name / bucket.bucket_folder / "b/records", "a", days=16)
        with monkeypatch.context() as patch:
            if fault == "store":
                proxy.fault = lambda s: s3_error(500, "InternalError") if "/images/" in s.path else None
            elif fault == "host":
                patch.setattr(Downloader.__init__, "__defaults__", (_nobody_answers,))
            else:
                patch.setattr(NanoBananaCredentials, "trusted_hosts", ["images.example"])
            waiting = _pending(generator, bucket, storage=ONE_TRY)
        proxy.fault = lambda _: None
        assert (waiting.generations, waiting.waiting, waiting.lost) == (1, 1, 0)
        assert _pending(generator, bucket).images == 1


def _nobody_answers(*_: Any) -> Any:
    raise OSError("Connection refused")


def test_pages_that_cannot_be_made_anew_lose_no_image(
    run: Run,
    generator: NanoBananaGenerator,
    make_bucket: Callable[..., S3Bucket],
    s3: LocalS3,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, bytes] = {}
    with FaultyS3(s3.endpoint_url) as proxy:
        bucket = make_bucket(endpoint_url=proxy.url)
        with monkeypatch.context() as patch:
            patch.setattr(sandbox, "images", _Hidden(made))
            run("a", bucket=bucket, storage=ONE_TRY)
        sandbox.images = made
        stored: list[str] = []

        def lose_access(request: Seen) -> Reply | None:
            if b'"stored"' in request.body:
                stored.append(request.path)
                return None
            return s3_error(403, "AccessDenied") if stored else None

        proxy.fault = lose_access
        report = _pending(generator, bucket)
    assert (report.images, report.waiting, report.lost) == (1, 0, 0)


def test_a_record_that_cannot_be_read_stops_it(
    run: Run, generator: NanoBananaGenerator, bucket: S3Bucket, folder: Path
) -> None:
    run("a")
    (path,) = (folder / "b/records").iterdir()
    path.write_text("{")
    with pytest.raises(Exception, match="cannot be read"):
        copy_pending(generator=generator, bucket=bucket)


def test_old_records_are_left_alone(run: Run, bucket: S3Bucket) -> None:
    run("a")
    now = datetime.now(UTC)
    store = ObjectStore(bucket)
    (record,) = Ledger(store, "b").read_others(()).values()
    Ledger(store, "b").write(record.model_copy(update={"state": "generated", "images": {}}))
    (plan,) = plan_pending(store, now - timedelta(hours=1))
    assert len(plan.prompts) == 1
    assert list(plan_pending(store, now + timedelta(hours=1))) == []


def test_of_what_is_owed_a_bounded_part_is_in_memory(
    run: Run, bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of records: plans are small, and those that are done are forgotten."""
    monkeypatch.setattr(_pending_plans, "WINDOW", 5)
    monkeypatch.setattr(_pending_plans, "READ_AHEAD", 4)
    run("a")
    store = ObjectStore(bucket)
    ledger = Ledger(store, "b")
    (record,) = ledger.read_others(()).values()
    for n in range(40):
        owed = record.model_copy(update={"key": f"{n:024x}", "state": "generated", "images": {}})
        ledger.write(owed)
    del ledger, record, owed
    seen: list[str] = []
    sizes, alive = [], []
    gc.collect()
    before = sum(isinstance(each, Record) for each in gc.get_objects())
    for plan in plan_pending(store, datetime.now(UTC) - timedelta(hours=1)):
        seen += [planned.record.key for planned in plan.prompts]
        sizes.append(len(plan.prompts))
        del plan
        gc.collect()
        alive.append(sum(isinstance(each, Record) for each in gc.get_objects()) - before)
    assert sorted(seen) == [f"{n:024x}" for n in range(40)]
    assert sizes == [5] * 8
    assert max(alive) <= 5 + 4 + 1, alive
