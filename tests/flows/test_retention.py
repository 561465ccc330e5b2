"""Keeping house: what batches hold, and what policies move away or delete; never what was paid."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aged import age, decide, refresh, rows
from prefect_aws import S3Bucket
from pydantic import ValidationError
from servers import FaultyS3, Reply, Seen, s3_error

from prefect_nanobanana import ImagePrompt, RetentionPolicy, RunReport, StorageError
from prefect_nanobanana.flows import apply_retention, derive_sizes, describe_images, review_images
from prefect_nanobanana.flows._retention_steps import RetentionSteps
from prefect_nanobanana.manifest import list_batches
from prefect_nanobanana.models import RetentionReport
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.s3 import LocalS3

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]
DELETE = RetentionPolicy(action="delete", after_days=1)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _apply(bucket: S3Bucket, *policies: RetentionPolicy, **changes: Any) -> RetentionReport:
    settings: dict[str, Any] = {"dry_run": False, **changes}
    report = apply_retention(bucket=bucket, policies=list(policies), **settings)
    assert isinstance(report, RetentionReport)
    return report


@pytest.fixture
def old(run: Run, folder: Path, s3: LocalS3) -> Path:
    """A batch of three prompts and four images, forty days old: one kept, one rejected."""
    run("kept", "rejected", ImagePrompt(prompt="undecided", quantity=2))
    decide(folder / "b", kept=True, rejected=False)
    age(s3, folder, 40)
    return folder / "b"


def test_batches_are_listed(old: Path, run: Run, bucket: S3Bucket) -> None:
    run("another", batch="a/2")
    report = _apply(bucket)
    assert [each.batch for each in report.batches] == ["a/2", "b"]
    new, it = report.batches
    assert (it.prompts, it.images, it.kept, it.rejected, it.removed, it.due) == (3, 4, 1, 1, 0, 0)
    assert it.image_bytes == sum(path.stat().st_size for path in (old / "images").iterdir())
    assert (it.credits, new.credits) == (4, 1)
    assert abs(datetime.now(UTC) - timedelta(days=40) - it.written_at) < timedelta(minutes=5)
    assert datetime.now(UTC) - new.written_at < timedelta(minutes=5)


def test_a_dry_run_changes_nothing(old: Path, bucket: S3Bucket, folder: Path) -> None:
    before = _files(folder)
    report = apply_retention(bucket=bucket, policies=[DELETE])
    assert report.dry_run
    assert (report.due, report.deleted, report.moved) == (1, 0, 0)
    (path,) = (old / "images").glob("rejected-*")
    assert report.batches[0].due_bytes == path.stat().st_size
    assert _files(folder) == before


def test_what_is_rejected_is_deleted_and_written_down(
    old: Path, run: Run, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    before = _files(old)
    (gone,) = (name for name in before if name.startswith("images/rejected-"))
    report = _apply(bucket, DELETE)
    assert (report.deleted, report.moved, report.freed_bytes) == (1, 0, len(before[gone]))
    after = _files(old)
    assert set(before) - set(after) == {gone}
    assert set(after) - set(before) == {"removed.jsonl"}
    same = {name for name in before if name.startswith(("images/", "records/")) and name != gone}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    (line,) = rows(old, "removed.jsonl")
    assert (line["action"], line["picked"], line["size_bytes"]) == ("deleted", False, len(before[gone]))
    assert json.loads(line["policy"])["action"] == "delete"
    assert len(line["run"]) == 36
    told = {row["prompt_text"]: (row["removed_at"], row["moved_to"]) for row in rows(old)}
    assert told.pop("rejected") == (line["at"], None)
    assert set(told.values()) == {(None, None)}
    page = (old / "index.html").read_text("utf-8")
    assert f"deleted on {datetime.now(UTC):%Y-%m-%d}" in page
    assert f'href="{gone}"' not in page
    assert "data:image/" in page, "what it looked like is still shown"
    assert _apply(bucket, DELETE).deleted == 0
    posts = sandbox.account.posts
    again = run("kept", "rejected", ImagePrompt(prompt="undecided", quantity=2))
    assert (again.stored, sandbox.account.posts) == (3, posts), "nothing is paid again"
    assert len([row for row in rows(old) if row["removed_at"]]) == 1


def test_moved_images_are_the_same_elsewhere(old: Path, bucket: S3Bucket, folder: Path) -> None:
    (path,) = (old / "images").glob("rejected-*")
    content = path.read_bytes()
    report = _apply(bucket, RetentionPolicy(images=["rejected"], after_days=30, to="/old/things/"))
    assert (report.moved, report.deleted, report.freed_bytes) == (1, 0, 0)
    to = folder / "old/things/b/moved" / path.name
    assert to.read_bytes() == content
    assert not path.exists()
    (row,) = (row for row in rows(old) if row["removed_at"])
    assert (
        row["moved_to"]
        == f"s3://{bucket.bucket_name}/{bucket.bucket_folder}/old/things/b/moved/{path.name}"
    )
    assert row["moved_to"] in (old / "index.html").read_text("utf-8")
    assert [each.batch for each in _apply(bucket).batches] == ["b"], "where it went is no batch"


def _nothing(batch: Path) -> str:
    path = batch.parent / "picks.json"
    path.write_text(json.dumps({"version": 1, "batch": batch.name, "images": []}))
    return str(path)


@pytest.mark.parametrize(
    ("policy", "gone"),
    [
        ({"images": ["undecided"]}, {"undecided"}),
        ({"images": ["kept", "undecided", "rejected"]}, {"kept", "undecided", "rejected"}),
        ({"images": ["rejected"], "after_days": 39}, {"rejected"}),
        ({"images": ["rejected"], "after_days": 41}, set()),
        ({"batches": "b?"}, set()),
        ({"batches": "[b]"}, set()),
        ({"batches": "*"}, {"rejected"}),
        ({"batches": "spring-*"}, set()),
    ],
)
def test_what_a_policy_names(
    old: Path, bucket: S3Bucket, policy: dict[str, Any], gone: set[str]
) -> None:
    _apply(bucket, RetentionPolicy(**{"action": "delete", "after_days": 30, **policy}))
    there = {row["prompt_text"] for row in rows(old) if row["removed_at"]}
    assert there == gone
    names = {path.name.split("-")[0] for path in old.glob("images/*")}
    assert names == {"kept", "rejected", "undecided"} - gone


def test_the_first_policy_that_names_an_image_counts(old: Path, bucket: S3Bucket) -> None:
    everything = RetentionPolicy(images=["kept", "undecided", "rejected"], after_days=1)
    report = _apply(bucket, DELETE, everything)
    assert (report.deleted, report.moved) == (1, 3)


@pytest.mark.parametrize("touched", ["records", "images", "picks.jsonl"])
def test_what_is_young_stays(old: Path, bucket: S3Bucket, touched: str, s3: LocalS3) -> None:
    """A batch that somebody works on, or an image that was only just decided on."""
    if touched == "picks.jsonl":
        path = old / touched
        path.write_text(path.read_text().replace("2020-01-01", f"{datetime.now(UTC):%Y-%m-%d}"))
    else:
        next((old / touched).iterdir()).touch()
    refresh(s3)
    report = _apply(bucket, DELETE)
    assert (report.due, report.deleted) == (0, 0)
    assert not (old / "removed.jsonl").exists()


def test_looking_at_a_batch_makes_it_no_younger(old: Path, bucket: S3Bucket, run: Run) -> None:
    run("kept", "rejected", ImagePrompt(prompt="undecided", quantity=2))
    assert _apply(bucket, DELETE).deleted == 1


@pytest.mark.parametrize("damage", ["another size", "outside", "claimed twice", "another hash"])
def test_what_is_not_what_its_record_says_stays(
    old: Path, bucket: S3Bucket, folder: Path, damage: str, s3: LocalS3
) -> None:
    """Whoever may write the bucket may have written records, to have something else deleted."""
    (path,) = (old / "images").glob("rejected-*")
    (row,) = (row for row in rows(old) if row["prompt_text"] == "rejected")
    record = old / "records" / f"{row['prompt_key']}.json"
    match damage:
        case "another size":
            path.write_bytes(b"something else")
        case "claimed twice":
            kept = next(r for r in rows(old) if r["prompt_text"] == "kept")
            other = old / "records" / f"{kept['prompt_key']}.json"
            mine = json.loads(other.read_text())
            theirs = json.loads(record.read_text())
            (mine["images"]["1"],) = theirs["images"].values()
            other.write_text(json.dumps(mine))
        case "outside":
            (folder / "b/records.jsonl").unlink(missing_ok=True)
            text = record.read_text().replace("/b/images/", "/b/records/")
            record.write_text(text)
        case _:
            said = json.loads(record.read_text())
            said["images"]["1"]["sha256"] = "0" * 64
            record.write_text(json.dumps(said))
            (old / "picks.jsonl").unlink()
    age(s3, folder, 40)
    before = {
        name: content for name, content in _files(old).items() if name.startswith(("images", "rec"))
    }
    policy = DELETE.model_copy(update={"images": frozenset({"rejected", "undecided"})})
    with pytest.raises(StorageError, match="1 problem"):
        _apply(bucket, policy)
    after = _files(old)
    assert after.get(f"images/{path.name}") == before[f"images/{path.name}"]
    assert {n for n in before if n.startswith("records/")} <= set(after)


def test_one_that_is_wanted_once_stays(old: Path, bucket: S3Bucket, s3: LocalS3) -> None:
    """The other prompt's image is kept: nothing names it."""
    kept, rejected = (next(r for r in rows(old) if r["prompt_text"] == t) for t in ("kept", "rejected"))
    record = old / "records" / f"{kept['prompt_key']}.json"
    said = json.loads(record.read_text())
    theirs = json.loads((old / "records" / f"{rejected['prompt_key']}.json").read_text())
    (said["images"]["1"],) = theirs["images"].values()
    record.write_text(json.dumps(said))
    age(s3, old, 40)
    assert _apply(bucket, DELETE).deleted == 0


def test_a_store_that_does_not_let_us_loses_nothing(
    old: Path, bucket: S3Bucket, s3: LocalS3, make_bucket: Any
) -> None:
    def fault(seen: Seen) -> Reply | None:
        return s3_error(403, "AccessDenied") if seen.method == "DELETE" else None

    with FaultyS3(s3.endpoint_url) as store:
        store.fault = fault
        behind = make_bucket(endpoint_url=store.url, bucket_folder=bucket.bucket_folder)
        with pytest.raises(StorageError, match="1 image stayed: .*AccessDenied"):
            _apply(behind, DELETE)
    assert len(rows(old, "removed.jsonl")) == 1
    assert {row["removed_at"] for row in rows(old)} == {None}, "it is there"
    assert _apply(bucket, DELETE).deleted == 1
    assert len(rows(old, "removed.jsonl")) == 2


def test_one_that_cannot_be_read_holds_up_no_other(
    old: Path, run: Run, bucket: S3Bucket, s3: LocalS3
) -> None:
    shutil.copytree(old, old.with_name("a"))
    (old.with_name("a") / "picks.jsonl").write_text("{\n")
    refresh(s3)
    with pytest.raises(StorageError, match=r"1 deleted.*1 problem, first a: .*picks.jsonl, line 1"):
        _apply(bucket, DELETE)
    assert len(list((old / "images").iterdir())) == 3
    assert len(list((old.with_name("a") / "images").iterdir())) == 4


def test_something_else_where_an_image_would_go(
    old: Path, bucket: S3Bucket, folder: Path, s3: LocalS3
) -> None:
    (path,) = (old / "images").glob("rejected-*")
    there = folder / "archive/b/moved" / path.name
    there.parent.mkdir(parents=True)
    there.write_bytes(b"x")
    refresh(s3)
    with pytest.raises(StorageError, match="is there, and is not the same"):
        _apply(bucket, RetentionPolicy(after_days=1))
    assert there.read_bytes() == b"x"
    assert path.exists()
    assert not (old / "removed.jsonl").exists()


def test_people_are_not_asked_about_what_is_gone(old: Path, bucket: S3Bucket) -> None:
    _apply(bucket, DELETE)
    decided = [{**row, "picked": True} for row in rows(old)]
    picks = old.parent / "picks.json"
    picks.write_text(json.dumps({"version": 1, "batch": "b", "images": decided}))
    report = review_images(batch="b", bucket=bucket, picks=str(picks))
    assert (report.images, report.kept, report.rejected) == (3, 3, 0)
    assert describe_images(batch="b", bucket=bucket) == 3


def test_a_batch_that_was_copied_elsewhere_goes_on(
    old: Path, run: Run, bucket: S3Bucket, sandbox: Sandbox, s3: LocalS3
) -> None:
    _apply(bucket, DELETE)
    shutil.copytree(old, old.with_name("copy"))
    refresh(s3)
    posts = sandbox.account.posts
    report = run("kept", "rejected", ImagePrompt(prompt="undecided", quantity=2), batch="copy")
    assert (report.stored, sandbox.account.posts) == (3, posts)
    assert sum(row["removed_at"] is not None for row in rows(old.with_name("copy"))) == 1


def test_what_a_stranger_notes_hides_nothing(old: Path, run: Run, bucket: S3Bucket, s3: LocalS3) -> None:
    _apply(bucket, DELETE)
    kept = next(row for row in rows(old) if row["prompt_text"] == "kept")
    (line,) = rows(old, "removed.jsonl")
    odd = {**line, "key": kept["key"], "sha256": "0" * 64, "moved_to": "s3://x/<script>"}
    (old / "removed.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(odd)}\n")
    refresh(s3)
    run("kept", "rejected", ImagePrompt(prompt="undecided", quantity=2))
    assert sum(row["removed_at"] is not None for row in rows(old)) == 1, "not on these bytes"
    (old / "removed.jsonl").write_text("[" * 100_000)
    refresh(s3)
    assert run("kept").stored == 1, "a run goes on, and says it in its log"
    with pytest.raises(StorageError, match=r"removed.jsonl, line 1"):
        _apply(bucket, DELETE)


def test_what_comes_back_is_there_again(old: Path, bucket: S3Bucket, s3: LocalS3) -> None:
    (path,) = (old / "images").glob("rejected-*")
    content = path.read_bytes()
    _apply(bucket, DELETE)
    path.write_bytes(content)
    refresh(s3)
    assert _apply(bucket).batches[0].removed == 0
    derive_sizes(batch="b", bucket=bucket, widths=[24])
    assert {row["removed_at"] for row in rows(old)} == {None}
    assert _apply(bucket, DELETE).due == 0, "it has just been written"


def test_a_delete_without_an_answer_is_one(
    old: Path, bucket: S3Bucket, s3: LocalS3, make_bucket: Any
) -> None:
    with FaultyS3(s3.endpoint_url) as store:
        store.lose_answer = lambda seen: seen.method == "DELETE"
        behind = make_bucket(endpoint_url=store.url, bucket_folder=bucket.bucket_folder)
        try:
            _apply(behind, DELETE)
        except StorageError as error:
            assert "1 image stayed" in str(error)
    assert sum(row["removed_at"] is not None for row in rows(old)) == 1
    assert derive_sizes(batch="b", bucket=bucket, widths=[24]) == 3


def test_an_older_policy_further_up_protects(old: Path, bucket: S3Bucket) -> None:
    later = RetentionPolicy(images=["kept"], after_days=365)
    everything = RetentionPolicy(images=["kept", "undecided", "rejected"], action="delete")
    assert _apply(bucket, later, everything).deleted == 3
    assert len(list(old.glob("images/kept-*"))) == 1


@pytest.mark.parametrize("folder_of", ["images", "records"])
def test_a_run_that_begins_meanwhile_keeps_what_it_makes(
    old: Path, bucket: S3Bucket, s3: LocalS3, folder_of: str
) -> None:
    store = ObjectStore(bucket)
    batches = list_batches(store)
    next((old / folder_of).iterdir()).touch()
    refresh(s3)
    steps = RetentionSteps(store, [DELETE], False, None, logging.getLogger(__name__))
    assert steps.apply(batches).due == 0


@pytest.mark.parametrize("place", [0, -1, 10**6])
def test_one_odd_record_holds_up_no_other(old: Path, bucket: S3Bucket, s3: LocalS3, place: int) -> None:
    shutil.copytree(old, old.with_name("a"))
    (row,) = (row for row in rows(old) if row["prompt_text"] == "rejected")
    path = old.with_name("a") / "records" / f"{row['prompt_key']}.json"
    said = json.loads(path.read_text())
    said["images"] = {str(place): image for image in said["images"].values()}
    path.write_text(json.dumps(said))
    age(s3, old.parent, 40)
    with suppress(StorageError):
        _apply(bucket, DELETE)
    assert not list(old.glob("images/rejected-*"))


def test_a_record_that_names_something_deeper_removes_nothing(
    old: Path, bucket: S3Bucket, s3: LocalS3
) -> None:
    deeper = old / "images/x/records"
    deeper.mkdir(parents=True)

    (row,) = (row for row in rows(old) if row["prompt_text"] == "rejected")
    content = b"a record"
    (deeper / "1.json").write_bytes(content)
    path = old / "records" / f"{row['prompt_key']}.json"
    said = json.loads(path.read_text())
    (image,) = said["images"].values()
    named = row["key"].rpartition("/")[2]
    for field in ("key", "uri"):
        image[field] = image[field].replace(named, "x/records/1.json")
    image |= {"size_bytes": len(content), "sha256": sha256(content).hexdigest()}
    path.write_text(json.dumps(said))
    (old / "picks.jsonl").unlink()
    age(s3, old, 40)
    everything = DELETE.model_copy(update={"images": frozenset({"undecided"})})
    with pytest.raises(StorageError, match="stay, as they are not what their records say"):
        _apply(bucket, everything)
    assert (deeper / "1.json").read_bytes() == content


def test_a_page_that_cannot_be_written_is_a_problem(
    old: Path, bucket: S3Bucket, s3: LocalS3, make_bucket: Any
) -> None:
    with FaultyS3(s3.endpoint_url) as store:
        store.fault = lambda seen: (
            s3_error(403, "AccessDenied")
            if seen.method == "PUT" and seen.path.endswith("manifest.jsonl")
            else None
        )
        behind = make_bucket(endpoint_url=store.url, bucket_folder=bucket.bucket_folder)
        with pytest.raises(StorageError, match="gallery or manifest could not be written"):
            _apply(behind, DELETE)
    _apply(bucket, DELETE)
    assert sum(row["removed_at"] is not None for row in rows(old)) == 1


@pytest.mark.parametrize(
    "policy",
    [
        {"to": ""},
        {"to": "../x"},
        {"to": "a//b"},
        {"after_days": 0.5},
        {"images": []},
        {"images": ["all"]},
        {"action": "burn"},
        {"batches": ""},
        {"older_than": 3},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(policy))):
        RetentionPolicy(**policy)
