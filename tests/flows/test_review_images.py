"""What becomes of what people have picked, here given as the file that the page saves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client
from prefect_aws import S3Bucket

from prefect_nanobanana import (
    ImagePrompt,
    InvalidInput,
    NanoBananaGenerator,
    RunReport,
    StorageOptions,
)
from prefect_nanobanana._common.local_files import FOLDERS_VARIABLE
from prefect_nanobanana.flows import generate_images, publish_batches, review_images
from prefect_nanobanana.flows._review_steps import ReviewSteps
from prefect_nanobanana.models import ReviewReport
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.pictures import draw

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]


def _lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "b" / name).read_text("utf-8").split("\n") if line]


@pytest.fixture
def review(bucket: S3Bucket, folder: Path, tmp_path: Path) -> Callable[..., ReviewReport]:
    """Reviews with these decisions, by the prompts' texts."""

    def call(decided: dict[str, Any], **changes: Any) -> ReviewReport:
        images = [
            {
                "prompt_key": row["prompt_key"],
                "place": row["place"],
                "sha256": row["sha256"],
                "picked": decided[row["prompt_text"]],
                "note": f"on {row['prompt_text']}",
            }
            for row in _lines(folder, "images.jsonl")
            if row["prompt_text"] in decided and row["picked"] is None
        ]
        path = tmp_path / "picks.json"
        path.write_text(json.dumps({"version": 1, "batch": "b", "images": images}))
        settings: dict[str, Any] = {"batch": "b", "bucket": bucket, "picks": str(path), **changes}
        report = review_images(**settings)
        assert isinstance(report, ReviewReport)
        return report

    return call


def _events(batch_folder: str, name: str) -> list[dict[str, Any]]:
    with get_client(sync_client=True) as client:
        wanted = {"filter": {"event": {"prefix": [name]}, "order": "DESC"}, "limit": 50}
        found = client._client.post("/events/filter", json=wanted).raise_for_status().json()["events"]
    return [event for event in found if batch_folder in str(event)]


def test_what_is_kept_is_copied_and_said_everywhere(
    run: Run,
    review: Callable[..., ReviewReport],
    folder: Path,
    bucket: S3Bucket,
    sandbox: Sandbox,
    wait_for: Callable[..., None],
) -> None:
    run(ImagePrompt(prompt="a", quantity=2), "b", "c")
    report = review({"a": True, "b": False})
    assert (report.kept, report.rejected, report.undecided, report.decided_now) == (2, 1, 1, 3)
    assert sandbox.account.posts == 3, "nothing is asked for"
    rows = {(row["prompt_text"], row["place"]): row for row in _lines(folder, "images.jsonl")}
    assert {key: (row["picked"], row["pick_note"]) for key, row in rows.items()} == {
        ("a", 1): (True, "on a"),
        ("a", 2): (True, "on a"),
        ("b", 1): (False, "on b"),
        ("c", 1): (None, None),
    }
    assert rows["a", 1]["picked_at"]
    kept = {path.name: path.read_bytes() for path in (folder / "b/picked").iterdir()}
    assert kept == {
        Path(rows["a", n]["key"]).name: (
            folder / "b/images" / Path(rows["a", n]["key"]).name
        ).read_bytes()
        for n in (1, 2)
    }
    assert len(list((folder / "b/images").iterdir())) == 4, "nothing is deleted"
    lines = _lines(folder, "picks.jsonl")
    assert [(line["prompt_key"], line["picked"]) for line in lines] == [
        (rows["a", 1]["prompt_key"], True),
        (rows["a", 2]["prompt_key"], True),
        (rows["b", 1]["prompt_key"], False),
    ]
    page = (folder / "b/index.html").read_text("utf-8")
    assert 'data-pick="kept"' in page
    wait_for(lambda: len(_events(bucket.bucket_folder, "nanobanana.image.picked")) == 2)
    (rejected,) = _events(bucket.bucket_folder, "nanobanana.image.rejected")
    assert rejected["payload"]["prompt"] == "b"
    assert rejected["payload"]["uri"] == rows["b", 1]["uri"]


def test_who_changes_their_mind_is_followed(
    run: Run, review: Callable[..., ReviewReport], folder: Path, bucket: S3Bucket
) -> None:
    run("a", "b")
    review({"a": True})
    assert len(list((folder / "b/picked").iterdir())) == 1
    (line,) = _lines(folder, "picks.jsonl")
    path = folder.parent / "again.json"
    images = [{**line, "picked": False, "note": None}]
    path.write_text(json.dumps({"version": 1, "batch": "b", "images": images}))
    report: Any = review_images(batch="b", bucket=bucket, picks=str(path))
    assert (report.kept, report.rejected, report.undecided) == (0, 1, 1)
    assert not list((folder / "b/picked").glob("*.*"))
    assert len(list((folder / "b/images").iterdir())) == 2
    again: Any = review_images(batch="b", bucket=bucket, picks=str(path))
    assert again.decided_now == 0


def test_a_later_run_keeps_what_was_picked(
    run: Run, review: Callable[..., ReviewReport], folder: Path, bucket: S3Bucket
) -> None:
    run("a", "b")
    review({"a": True, "b": False})
    run("a", "b", "c")
    told = {row["prompt_text"]: row["picked"] for row in _lines(folder, "images.jsonl")}
    assert told == {"a": True, "b": False, "c": None}
    publish_batches(bucket=bucket)
    assert {row["prompt_text"]: row["picked"] for row in _lines(folder, "images.jsonl")} == told


def test_variants_are_asked_for_within_the_bound(
    run: Run,
    review: Callable[..., ReviewReport],
    folder: Path,
    sandbox: Sandbox,
    generator: NanoBananaGenerator,
) -> None:
    run(
        ImagePrompt(prompt="a", aspect_ratio="16:9", quantity=2),
        "b",
        ImagePrompt(prompt="c", name="cup"),
    )
    decided = {"a": False, "b": True, "c": False}
    report = review(decided, generator=generator, variants=1, max_credits=2)
    assert sandbox.account.charged == 4 + 2
    assert (report.variants, report.credits_used) == (1, 2)
    rows = _lines(folder, "manifest.jsonl")
    (variant,) = (
        row for row in rows if row["prompt_name"] and "variant" in row["prompt_name"] and row["images"]
    )
    assert variant["prompt_text"] == "a"
    assert (variant["aspect_ratio"], variant["quantity"], variant["model"]) == ("16:9", 2, "nano-banana")
    again = review({"b": True}, generator=generator, variants=1, max_credits=9)
    assert sandbox.account.charged == 4 + 2 + 1, "the one that did not fit, and nothing twice"
    assert again.variants == 1
    names = {row["prompt_name"] for row in _lines(folder, "manifest.jsonl")}
    assert "cup variant 1" in names
    assert len(names - {None}) == 3


def test_a_variant_of_a_variant(
    run: Run,
    review: Callable[..., ReviewReport],
    folder: Path,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
) -> None:
    run(ImagePrompt(prompt="c", name="cup"))
    for number in (1, 2):
        review({"c": False}, generator=generator, variants=2)
        names = {row["prompt_name"] for row in _lines(folder, "manifest.jsonl")}
        assert f"cup variant {number}" in names
    review({"c": False}, generator=generator, variants=2)
    assert sandbox.account.charged == 3, "two variants are enough"


def test_nothing_kept_but_a_record(run: Run, review: Callable[..., ReviewReport], folder: Path) -> None:
    run("a")
    review({"a": True}, keep_as="record")
    assert not (folder / "b/picked").exists()
    assert _lines(folder, "images.jsonl")[0]["picked"] is True


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"picks": None}, "picks: is missing, and only a run of a deployment"),
        ({"picks": "/nowhere/picks.json"}, "picks: /nowhere/picks.json cannot be read (No such file"),
        ({"picks": "/dev/zero"}, "picks: /dev/zero cannot be read (it is not a regular file)"),
        ({"picks": "a\0b"}, "cannot be read"),
        ({"picks": "s3://pictures/nowhere.json"}, "picks: 's3://pictures/nowhere.json' cannot be read"),
        ({"variants": 1}, "generator: is missing"),
        ({"batch": "c"}, "batch: there is no batch 'c'"),
        ({"batch": "../c"}, "batch: "),
    ],
)
def test_what_cannot_be_done_is_said(
    run: Run, review: Callable[..., ReviewReport], changes: dict[str, Any], why: str
) -> None:
    run("a")
    with pytest.raises(InvalidInput) as caught:
        review({"a": True}, **changes)
    assert why.replace("'", "") in str(caught.value).replace("'", "")


def test_in_a_workers_run_no_file_of_the_worker_is_read(
    run: Run, review: Callable[..., ReviewReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("a")
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "x")
    with pytest.raises(InvalidInput, match="is not below a folder that decisions may be read from"):
        review({"a": True})
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    assert review({"a": True}).kept == 1


def test_kept_images_can_be_tagged_instead(
    make_bucket: Callable[..., S3Bucket],
    moto_url: str,
    generator: NanoBananaGenerator,
    tmp_path: Path,
) -> None:
    bucket = make_bucket(endpoint_url=moto_url, user="x" * 5, secret="y" * 9)
    generate_images(prompts=["a", "b"], generator=generator, bucket=bucket, batch="b")
    client = bucket.credentials.get_s3_client()
    prefix = f"{bucket.bucket_folder}/b"
    body = client.get_object(Bucket="pictures", Key=f"{prefix}/images.jsonl")["Body"].read()
    rows = [json.loads(line) for line in body.splitlines()]
    path = tmp_path / "picks.json"
    images = [{**row, "picked": row["prompt_text"] == "a"} for row in rows]
    path.write_text(json.dumps({"version": 1, "batch": "b", "images": images}))
    client.put_object_tagging(
        Bucket="pictures",
        Key=rows[0]["key"],
        Tagging={"TagSet": [{"Key": "team", "Value": "art"}]},
    )
    review_images(batch="b", bucket=bucket, picks=str(path), keep_as="tag")
    tags = [
        {
            t["Key"]: t["Value"]
            for t in client.get_object_tagging(Bucket="pictures", Key=row["key"])["TagSet"]
        }
        for row in rows
    ]
    assert tags == [{"team": "art", "picked": "true"}, {"picked": "false"}]


# What a reviewer has broken.


def test_a_changed_image_is_undecided(
    run: Run,
    review: Callable[..., ReviewReport],
    folder: Path,
    bucket: S3Bucket,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
) -> None:
    run("a", "b")
    review({"a": True, "b": False}, keep_as="record")
    for path in (folder / "b/records").iterdir():
        record = json.loads(path.read_text())
        record["images"]["1"]["sha256"] = "0" * 64
        ObjectStore(bucket).put(
            f"{bucket.bucket_folder}/b/records/{path.name}", json.dumps(record).encode(), "text/plain"
        )
    report = review({}, generator=generator, variants=1)
    assert (report.kept, report.rejected, report.undecided) == (0, 0, 2)
    assert sandbox.account.posts == 2
    assert not (folder / "b/picked").exists()
    page = (folder / "b/index.html").read_text("utf-8")
    assert page.count('data-status="stored" data-pick="undecided"') == 2
    assert [row["picked"] for row in _lines(folder, "images.jsonl")] == [None, None]


@pytest.mark.parametrize("url", ["{secret}", "s3://other/secret.png", "~secret"])
def test_a_strangers_record_has_no_file_read_for_a_variant(
    run: Run,
    review: Callable[..., ReviewReport],
    folder: Path,
    bucket: S3Bucket,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    tmp_path: Path,
    url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run("a")
    secret = tmp_path / "secret.png"
    secret.write_bytes(draw("secret", seed="1", longest=32))
    (path,) = (folder / "b/records").iterdir()
    record = json.loads(path.read_text())
    urls = [url.format(secret=secret)]
    record["request"]["reference_image_urls"] = urls
    record["prompt"]["reference_image_urls"] = urls
    ObjectStore(bucket).put(
        f"{bucket.bucket_folder}/b/records/{path.name}", json.dumps(record).encode(), "text/plain"
    )
    review({"a": False}, generator=generator, variants=1)
    assert sandbox.account.posts == 1
    assert not (folder / "b/references").exists()
    assert "neither on the web nor the batch's own copy" in caplog.text


def test_a_variant_has_the_references_of_the_request(
    run: Run, review: Callable[..., ReviewReport], generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    """Those of the generator block, too."""
    url = "https://refs.example/a.png"
    both = generator.model_copy(update={"reference_image_urls": [url]})
    run("a", generator=both)
    review({"a": False}, generator=generator, variants=1)
    assert [row.references for row in sandbox.account._rows.values()] == [(url,)] * 2


def test_a_private_reference_is_used_again(
    run: Run,
    review: Callable[..., ReviewReport],
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(draw("cat", seed="1", longest=32))
    run(ImagePrompt(prompt="a", reference_image_urls=[str(picture)]))
    picture.unlink()
    review({"a": False}, generator=generator, variants=1)
    assert sandbox.account.posts == 2


def test_names_with_line_breaks_have_no_more_variants(
    run: Run, review: Callable[..., ReviewReport], generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    run(ImagePrompt(prompt="a", name="cup\nred"))
    for _ in range(3):
        review({"a": False}, generator=generator, variants=1)
    assert sandbox.account.charged == 2


def test_a_variant_that_was_not_charged_is_asked_for_again(
    run: Run, review: Callable[..., ReviewReport], generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    run(ImagePrompt(prompt="a", name="cup"))
    sandbox.faults.queue("400")
    assert review({"a": False}, generator=generator, variants=1).variants == 1
    assert sandbox.account.charged == 1
    review({}, generator=generator, variants=1)
    assert sandbox.account.charged == 2
    review({}, generator=generator, variants=1)
    assert sandbox.account.charged == 2


def test_a_variant_that_cannot_be_asked_for_prevents_nothing_else(
    run: Run,
    review: Callable[..., ReviewReport],
    generator: NanoBananaGenerator,
    folder: Path,
    bucket: S3Bucket,
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run("a", "b")
    for path in (folder / "b/records").iterdir():
        record = json.loads(path.read_text())
        record["request"]["model"] = "retired-model"
        ObjectStore(bucket).put(
            f"{bucket.bucket_folder}/b/records/{path.name}", json.dumps(record).encode(), "text/plain"
        )
    report = review({"a": True, "b": False}, generator=generator, variants=1)
    assert (report.kept, report.rejected) == (1, 1)
    assert "retired-model" in caplog.text
    assert {row["prompt_text"]: row["picked"] for row in _lines(folder, "images.jsonl")} == {
        "a": True,
        "b": False,
    }


def test_a_copy_for_everybody_says_neither_cost_nor_prompt(
    make_bucket: Callable[..., S3Bucket], moto_url: str, generator: NanoBananaGenerator, tmp_path: Path
) -> None:
    bucket = make_bucket(endpoint_url=moto_url, user="x" * 5, secret="y" * 9)
    generate_images(prompts=["secret plan"], generator=generator, bucket=bucket, batch="b")
    store = ObjectStore(bucket)
    found = store.find(store.key("b/images.jsonl"))
    assert found is not None
    row = json.loads(found[0])
    path = tmp_path / "picks.json"
    images = [{**row, "picked": True, "note": "for internal use"}]
    path.write_text(json.dumps({"version": 1, "batch": "b", "images": images}))
    storage = StorageOptions(acl="public-read")
    review_images(batch="b", bucket=bucket, picks=str(path), storage=storage)
    copy = store.head(store.key("b/picked", row["key"].rpartition("/")[2]))
    assert copy is not None
    assert not {"credits", "prompt"} & set(copy.metadata)
    assert copy.metadata["sha256"] == row["sha256"]
    client = bucket.credentials.get_s3_client()
    head = client.head_object(
        Bucket="pictures", Key=store.key("b/picked", row["key"].rpartition("/")[2])
    )
    assert head["ContentType"] == row["content_type"]
    page = store.find(store.key("b/index.html"))
    assert page is not None
    assert b"internal use" not in page[0]


@pytest.mark.parametrize("acl", ["public-read", "public-read-write", "authenticated-read"])
def test_records_are_private_whatever_the_acl(acl: str) -> None:
    options = StorageOptions(acl=acl)
    assert "ACL" not in options.for_put("record")
    assert options.for_put("image")["ACL"] == acl


def test_who_died_after_the_decision_goes_on(
    run: Run, review: Callable[..., ReviewReport], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("a")
    with monkeypatch.context() as patch:
        patch.setattr(ReviewSteps, "carry_out", lambda _: (_ for _ in ()).throw(RuntimeError("killed")))
        patch.setattr(ReviewSteps, "decide", _decide_and_die(ReviewSteps.decide))
        with pytest.raises(RuntimeError, match="killed"):
            review({"a": True})
    assert _lines(folder, "images.jsonl")[0]["picked"] is None
    report = review({})
    assert (report.kept, report.decided_now) == (1, 0)
    assert _lines(folder, "images.jsonl")[0]["picked"] is True
    assert len(list((folder / "b/picked").iterdir())) == 1


def _decide_and_die(decide: Any) -> Any:
    def call(*args: Any) -> Any:
        decide(*args)
        raise RuntimeError("killed")

    return call


def test_inside_another_flow_variants_are_counted(
    run: Run, review: Callable[..., ReviewReport], generator: NanoBananaGenerator
) -> None:
    run("a")

    @flow
    def above() -> ReviewReport:
        return review({"a": False}, generator=generator, variants=1)

    report = above()
    assert (report.variants, report.credits_used) == (1, 1)
