"""References that are not on the web: pictures in S3 and local files, offered for a moment."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from prefect.client.orchestration import get_client
from prefect_aws import S3Bucket
from servers import FaultyS3, Reply, Scripted, Seen, s3_error

from prefect_nanobanana import (
    ImagePrompt,
    InvalidInput,
    NanoBananaGenerator,
    RunReport,
    StorageError,
    StorageOptions,
)
from prefect_nanobanana._common.local_files import FOLDERS_VARIABLE
from prefect_nanobanana._common.references import split_hash, with_hash
from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.batch._known_references import KnownReferences
from prefect_nanobanana.batch._references import MAX_REFERENCE_BYTES, References
from prefect_nanobanana.client import GenerationHooks, NanoBananaClient
from prefect_nanobanana.flows import generate_in_parts, plan_images
from prefect_nanobanana.flows._call import Call
from prefect_nanobanana.flows._work import Work
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.pictures import draw

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]
CAT, DOG = (draw(name, seed=name, longest=64) for name in ("cat", "dog"))


@pytest.fixture
def cat(bucket: S3Bucket) -> str:
    """A picture in the bucket that nobody else may read."""
    return put(bucket, "cat.png", CAT)


def put(bucket: S3Bucket, name: str, content: bytes) -> str:
    store = ObjectStore(bucket)
    store.put(store.key("shop", name), content, "image/png")
    return store.uri(store.key("shop", name))


def of(url: str, prompt: str = "a hat for it", **fields: Any) -> ImagePrompt:
    return ImagePrompt(prompt=prompt, reference_image_urls=[url], **fields)


def offered(sandbox: Sandbox) -> list[str]:
    return [url for row in sandbox.account.rows for url in row.references]


@pytest.mark.parametrize("mode", ["sync", "async", "stream"])
def test_the_api_is_offered_an_address_for_a_moment(
    mode: Any,
    cat: str,
    run: Run,
    sandbox: Sandbox,
    generator: NanoBananaGenerator,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It fetches it, and what signs it is nowhere afterwards."""
    caplog.set_level(logging.DEBUG)
    report = run(of(cat), generator=generator.model_copy(update={"mode": mode}))
    assert report.stored == 1
    (url,) = offered(sandbox)
    query = parse_qs(urlsplit(url).query)
    assert urlsplit(url).path.endswith("/shop/cat.png")
    assert int(query["X-Amz-Expires"][0]) == generator.credentials.request_timeout_seconds + 60
    said = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert datetime.now(UTC) - said < timedelta(seconds=30)
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).decode("latin-1")
    with get_client(sync_client=True) as client:
        shown = " ".join(str(artifact.data) for artifact in client.read_artifacts())
    for place in (kept, shown, caplog.text, repr(report)):
        assert query["X-Amz-Signature"][0] not in place
        assert "X-Amz-Signature" not in place
    assert report.outcomes[0].prompt.reference_image_urls == [cat]


def test_it_is_signed_when_the_request_leaves(cat: str, run: Run, sandbox: Sandbox) -> None:
    """With one slot, the last of three is sent seconds after the run has begun."""
    sandbox.latency = (1.2, 1.2)
    run(of(cat, "a"), of(cat, "b"), of(cat, "c"))
    dates = sorted(parse_qs(urlsplit(url).query)["X-Amz-Date"][0] for url in offered(sandbox))
    assert len(set(dates)) == 3


def test_an_unchanged_picture_is_not_asked_again_and_a_changed_one_is(
    cat: str, run: Run, bucket: S3Bucket, sandbox: Sandbox, folder: Path
) -> None:
    run(of(cat))
    put(bucket, "cat.png", CAT)  # written anew, and the same
    assert run(of(cat)).credits_used == 0
    known = folder / "b" / "references" / "known.json"
    told = json.loads(known.read_text())
    assert told[cat]["sha256"] == hashlib.sha256(CAT).hexdigest()
    told[cat]["tag"] = "another, as of an upload in parts"
    known.write_text(json.dumps(told))
    assert run(of(cat)).credits_used == 0
    put(bucket, "cat.png", DOG)
    report = run(of(cat))
    assert (report.stored, report.credits_used, sandbox.account.posts) == (1, 1, 2)
    put(bucket, "cat.png", CAT)
    assert run(of(cat)).credits_used == 0, "that one is paid, too"


def test_what_is_known_is_not_read_again(
    cat: str, run: Run, bucket: S3Bucket, make_bucket: Callable[..., S3Bucket]
) -> None:
    endpoint = str(bucket.credentials.aws_client_parameters.endpoint_url)
    asked: list[str] = []

    def note(seen: Seen) -> None:
        if "/shop/" in seen.path:
            asked.append(seen.method)

    with FaultyS3(endpoint) as front:
        front.fault = note
        settings = {"endpoint_url": front.url, "bucket_folder": bucket.bucket_folder}
        for _ in range(2):
            run(of(cat), bucket=make_bucket(**settings))
    # Once, and when a request leaves, whether it has changed; the API fetches it, too.
    assert asked == ["HEAD", "GET", "HEAD", "GET", "HEAD"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a picture that can be offered"),
        (b"<html>", "is not a picture that can be offered"),
        (CAT[:-20], "is not a picture that can be offered (the picture is cut short)"),
        (b"\0" * 3000, "is larger than 0 MB: make it smaller"),
        (None, "is not there: check the address"),
    ],
)
def test_what_is_no_reference_is_refused_before(
    content: bytes | None, said: str, run: Run, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    store = ObjectStore(bucket)
    uri = put(bucket, "x.png", content) if content is not None else store.uri(store.key("x.png"))
    with MAX_REFERENCE_BYTES.use(2_500), pytest.raises(InvalidInput) as caught:
        run("fine", of(uri))
    assert f"prompts, row 2: reference_image_urls: '{uri}' {said}" in str(caught.value)
    assert sandbox.account.posts == 0


def test_a_bucket_that_cannot_be_read_is_refused_before(
    run: Run, make_bucket: Callable[..., S3Bucket], bucket: S3Bucket, sandbox: Sandbox
) -> None:
    endpoint = str(bucket.credentials.aws_client_parameters.endpoint_url)
    with FaultyS3(endpoint) as front:
        front.fault = lambda seen: s3_error(403, "AccessDenied") if "/other/" in seen.path else None
        with pytest.raises(InvalidInput, match="row 1: .*s3://other/a.png cannot be read .*403"):
            run(of("s3://other/a.png"), bucket=make_bucket(endpoint_url=front.url))
    assert sandbox.account.posts == 0


def test_a_finished_prompt_needs_its_reference_no_more(
    cat: str, run: Run, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    run(of(cat))
    store = ObjectStore(bucket)
    store.remove(store.key("shop", "cat.png"))
    assert run(of(cat)).credits_reused == 1
    with pytest.raises(InvalidInput, match="row 2: .*is not there"):
        run(of(cat), of(cat, "another"))
    assert sandbox.account.posts == 1


def test_those_of_the_generator_are_offered_too(
    cat: str, run: Run, sandbox: Sandbox, generator: NanoBananaGenerator
) -> None:
    with_cat = generator.model_copy(update={"reference_image_urls": [cat]})
    assert run("a", of("https://example.com/b.png", "b"), generator=with_cat).stored == 2
    first, second = sorted(offered(sandbox), key=lambda url: "example.com" in url)
    assert "X-Amz-Signature" in first
    assert second == "https://example.com/b.png"


def test_a_local_file_is_uploaded_once(
    run: Run, sandbox: Sandbox, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cat.png").write_bytes(CAT)
    monkeypatch.chdir(tmp_path)
    digest = hashlib.sha256(CAT).hexdigest()
    report = run(of("./cat.png"))
    (outcome,) = report.outcomes
    (shown,) = outcome.prompt.reference_image_urls or [""]
    assert shown.endswith(f"/b/references/{digest}.png")
    assert (folder / "b" / "references" / f"{digest}.png").read_bytes() == CAT
    assert "X-Amz-Signature" in offered(sandbox)[0]
    # Whatever its name and place, and by the address that it has now, it is the same picture.
    (tmp_path / "other name.png").write_bytes(CAT)
    for same in (f"{tmp_path}/cat.png", f"file://{tmp_path}/other%20name.png", shown):
        assert run(of(same)).credits_used == 0, same
    (tmp_path / "cat.png").write_bytes(DOG)
    assert run(of("./cat.png")).credits_used == 1
    assert sandbox.account.posts == 2


def test_a_local_file_that_is_gone_leaves_what_was_made_of_it(
    run: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    file = tmp_path / "cat.png"
    file.write_bytes(CAT)
    run(of(str(file)))
    file.unlink()
    assert run(of(str(file))).credits_reused == 1
    with pytest.raises(InvalidInput, match=r"row 1: reference_image_urls: .*cat.png cannot be read"):
        run(of(str(file), "another"))
    assert sandbox.account.posts == 1


def test_a_batch_that_was_copied_elsewhere_knows_its_local_files(
    run: Run, sandbox: Sandbox, tmp_path: Path, folder: Path, make_bucket: Callable[..., S3Bucket]
) -> None:
    """Their key is what they hold: the bucket that they lie in plays no part."""
    file = tmp_path / "cat.png"
    file.write_bytes(CAT)
    run(of(str(file)))
    elsewhere = make_bucket()
    store = ObjectStore(elsewhere)
    for path in (folder / "b").rglob("*"):
        if path.is_file():
            name = str(path.relative_to(folder))
            store.put(store.key(*name.split("/")), path.read_bytes(), "image/png")
    assert run(of(str(file)), bucket=elsewhere).credits_reused == 1
    assert sandbox.account.posts == 1


def test_it_stays_private_where_images_are_public(
    run: Run, bucket: S3Bucket, make_bucket: Callable[..., S3Bucket], tmp_path: Path
) -> None:
    file = tmp_path / "cat.png"
    file.write_bytes(CAT)
    acls: dict[str, set[str | None]] = {}

    def note(seen: Seen) -> None:
        if seen.method == "PUT":
            what = "references" if "/references/" in seen.path else seen.path.split("/")[-2]
            acls.setdefault(what, set()).add(seen.headers.get("x-amz-acl"))

    endpoint = str(bucket.credentials.aws_client_parameters.endpoint_url)
    with FaultyS3(endpoint) as front:
        front.fault = note
        run(
            of(str(file)),
            bucket=make_bucket(endpoint_url=front.url),
            storage=StorageOptions(acl="public-read"),
        )
    assert acls["images"] == {"public-read"}
    assert acls["references"] == {None}


def test_a_run_that_a_worker_starts_reads_no_file_outside_of_its_folders(
    run: Run, tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cat.png"
    file.write_bytes(CAT)
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "x")
    for path in (str(file), f"{tmp_path}/none.png", f"file://{file}"):
        with pytest.raises(InvalidInput, match="is not below a folder that references may be read from"):
            run(of(path))
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    assert run(of(str(file))).stored == 1


def test_a_list_from_elsewhere_names_no_file_of_this_machine(
    run: Run, bucket: S3Bucket, tmp_path: Path, sandbox: Sandbox
) -> None:
    (tmp_path / "cat.png").write_bytes(CAT)
    lines = json.dumps({"prompt": "a", "reference_image_urls": [f"{tmp_path}/cat.png"]}).encode()
    store = ObjectStore(bucket)
    store.put(store.key("list.jsonl"), lines, "application/x-ndjson")
    with pytest.raises(
        InvalidInput, match="list.jsonl, line 1: .* is a local file, and the list is not"
    ):
        run(prompts_from=store.uri(store.key("list.jsonl")))
    assert sandbox.account.posts == 0
    here = tmp_path / "list.jsonl"
    here.write_bytes(lines)
    assert run(prompts_from=str(here)).stored == 1


def test_parts_take_no_local_files(
    generator: NanoBananaGenerator, bucket: S3Bucket, tmp_path: Path, sandbox: Sandbox
) -> None:
    (tmp_path / "cat.png").write_bytes(CAT)
    store = ObjectStore(bucket)
    call = Call(
        [of(f"{tmp_path}/cat.png")],
        None,
        generator,
        store,
        frozenset(),
        None,
        logging.getLogger(),
        local_files=False,
    )
    with pytest.raises(InvalidInput, match="is a local file, and parts may run elsewhere"):
        Work(call, Ledger(store, "b"))
    source = Path(str(generate_in_parts.fn.__code__.co_filename)).read_text()
    assert source.count("local_files=False") == 2, "the call itself, and its parts"


def test_a_dry_run_reads_it_and_writes_nothing(
    generator: NanoBananaGenerator, bucket: S3Bucket, tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(CAT)
    plan = plan_images(
        prompts=[of(f"{tmp_path}/cat.png")], generator=generator, bucket=bucket, batch="b"
    )
    assert plan.price == 1
    assert plan.prompts[0].references == 1
    assert not folder.exists()


def test_a_store_that_the_api_cannot_reach_is_refused(cat: str, bucket: S3Bucket) -> None:
    references = References(Ledger(ObjectStore(bucket), "b"), local_files=True, api_is_private=False)
    references.look_up([of(cat)], [])
    (problem,) = references.problems([cat])
    assert problem.startswith("reference_image_urls: the store of ")
    assert "is a private address, which the API cannot reach" in problem


def test_what_the_api_says_of_an_address_gives_nothing_away(
    cat: str,
    run: Run,
    sandbox: Sandbox,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whole, in pieces, and in other words, as stores and servers do."""
    seen: list[str] = []

    def repeat(references: Any) -> str:
        (url,) = references
        query = parse_qs(urlsplit(url).query)
        seen.append(query["X-Amz-Signature"][0])
        return f"{seen[0]} {url} SignatureProvided>{seen[0]}< {json.dumps(query)}"

    monkeypatch.setattr("prefect_nanobanana.sandbox.handler.unreadable", repeat)
    report = run(of(cat), fail_on="never")
    (outcome,) = report.outcomes
    assert outcome.status == "failed"
    assert "The reference image cannot be loaded: [key] http://" in str(outcome.message)
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).decode("latin-1")
    for place in (kept, caplog.text, str(outcome)):
        assert seen[0] not in place


def test_addresses_of_images_that_are_signed_alike_stay_whole() -> None:
    """The API may sign its own as S3 does; what is taken out is what opens ours."""
    ours = (
        "https://s3.example/cat.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261127T120000Z"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261127%2Fus-east-1%2Fs3%2Faws4_request"
        f"&X-Amz-SignedHeaders=host&X-Amz-Signature={'a1' * 32}"
    )
    theirs = ours.replace("cat.png", "1.png").replace("AKIAIOSFODNN7EXAMPLE", "ASIAOTHER0000000OTHER")
    theirs = theirs.replace("a1" * 32, "b2" * 32)

    class Offers(GenerationHooks):
        offers_private_references = True

        def reference_urls(self, urls: Any) -> list[str]:
            return [ours]

    def answer(seen: Seen) -> Reply:
        assert json.loads(seen.body)["referenceImageUrls"] == [ours]
        body = {"success": True, "imageUrls": [theirs], "creditsUsed": 1, "message": ours}
        return Reply(json.dumps(body).encode())

    with Scripted(answer) as server, NanoBananaClient("nb_key", f"{server.url}/api/v1") as client:
        found = client.generate("a", reference_image_urls=["s3://b/cat.png"], hooks=Offers())
    assert found.image_urls == (theirs,)
    assert "a1a1a1" not in str(found.message)
    assert "AKIAIOSFODNN7EXAMPLE" not in str(found.message)


def test_a_picture_that_changes_before_its_request_leaves_is_not_asked_for(
    cat: str, run: Run, bucket: S3Bucket, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = References.offer

    def offer_and_change(self: References, identities: Any) -> None:
        offer(self, identities)
        put(bucket, "cat.png", DOG)

    with monkeypatch.context() as patch:
        patch.setattr(References, "offer", offer_and_change)
        (outcome,) = run(of(cat), fail_on="never").outcomes
    assert "has changed since the run was planned: run it again" in str(outcome.message)
    assert sandbox.account.posts == 0
    assert run(of(cat)).stored == 1


def test_what_is_asked_again_after_a_poll_needs_its_reference(
    cat: str, run: Run, bucket: S3Bucket, sandbox: Sandbox, generator: NanoBananaGenerator
) -> None:
    submits = generator.model_copy(update={"mode": "async"})
    sandbox.poll_faults.queue("400", "400", "400")
    assert run(of(cat), generator=submits, fail_on="never").unknown == 1
    store = ObjectStore(bucket)
    store.remove(store.key("shop", "cat.png"))
    sandbox.poll_faults.queue("400", "400", "400")
    run(of(cat), generator=submits, ask_again=["unknown"], fail_on="never")
    assert sandbox.account.posts == 1


def test_the_folders_of_workers_hold_in_all_threads(
    run: Run, tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a worker has started a run stands in its context."""
    started = ContextVar("started", default=False)
    monkeypatch.setattr("prefect_nanobanana._common.local_files.started_by_worker", started.get)
    (tmp_path / "cat.png").write_bytes(CAT)
    token = started.set(True)
    with pytest.raises(InvalidInput, match="is not below a folder that references may be read from"):
        run(of(f"{tmp_path}/cat.png"))
    started.reset(token)
    assert sandbox.account.posts == 0


def test_two_lists_of_a_batch_remember_what_both_have_read(
    run: Run, bucket: S3Bucket, cat: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though both have read what was known before either has written."""
    dog, begun, read = put(bucket, "dog.png", DOG), list[bool](), KnownReferences.read

    def read_and_let_the_other_run(self: KnownReferences) -> Any:
        found = read(self)
        if not begun:
            begun.append(True)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(run, of(dog, "b")).result()
        return found

    monkeypatch.setattr(KnownReferences, "read", read_and_let_the_other_run)
    run(of(cat))
    assert set(json.loads((folder / "b/references/known.json").read_text())) == {cat, dog}


def test_of_equal_pictures_one_suffices(run: Run, tmp_path: Path, sandbox: Sandbox) -> None:
    """A file was renamed: the list names it by both names, and what was made of the old one is done."""
    (tmp_path / "old.png").write_bytes(CAT)
    run(of(f"{tmp_path}/old.png"))
    (tmp_path / "old.png").rename(tmp_path / "new.png")
    for order in ([0, 1], [1, 0]):
        prompts = [of(f"{tmp_path}/new.png", "fresh"), of(f"{tmp_path}/old.png")]
        assert run(*(prompts[n] for n in order)).stored == 2
    assert sandbox.account.posts == 2


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://a b/cat.png", "holds a blank|is no S3 address"),
        ("s3://My_Bucket!/x.png", "is no S3 address: write s3://bucket/key"),
        ("s3://AKIAIOSFODNN7EXAMPLE:secret@b/x.png", "has a user name in it"),
    ],
)
def test_an_address_that_is_none_is_named_with_its_row(
    uri: str, said: str, run: Run, sandbox: Sandbox
) -> None:
    with pytest.raises(InvalidInput, match=f"row 1: reference_image_urls: .*({said})") as caught:
        run(of(uri))
    assert "secret" not in str(caught.value)
    assert sandbox.account.posts == 0


def test_addresses_in_s3_are_recorded_to_the_letter(run: Run, bucket: S3Bucket) -> None:
    """What looks like a signature or a user name in one is a part of the key."""
    uri = put(bucket, "a@2x?token=1.png", CAT)
    (outcome,) = run(of(uri)).outcomes
    assert outcome.prompt.reference_image_urls == [uri]
    assert run(of(uri)).credits_used == 0


def test_other_code_is_told_that_it_takes_a_flow(
    cat: str, generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    for call in (generator.generate, generator.trigger):
        with pytest.raises(InvalidInput, match="is not on the web: only the flows of this package"):
            call(of(cat))
    assert sandbox.account.posts == 0


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"s3://x": 3}', "[" * 100_000])
def test_what_was_known_and_is_damaged_is_read_anew(
    damage: str, cat: str, run: Run, folder: Path
) -> None:
    run(of(cat))
    known = folder / "b" / "references" / "known.json"
    known.write_text(damage)
    assert run(of(cat)).credits_reused == 1
    known.write_text(damage)
    assert run(of(cat), of(cat, "another")).stored == 2
    assert json.loads(known.read_text())[cat]["extension"] == "png"


def test_a_store_that_fails_keeps_anything_from_being_spent(
    cat: str, run: Run, bucket: S3Bucket, make_bucket: Callable[..., S3Bucket], sandbox: Sandbox
) -> None:
    endpoint = str(bucket.credentials.aws_client_parameters.endpoint_url)
    with FaultyS3(endpoint) as front:
        front.fault = lambda seen: s3_error(403, "AccessDenied") if "known.json" in seen.path else None
        with pytest.raises(StorageError):
            run(of(cat), bucket=make_bucket(endpoint_url=front.url))
    assert sandbox.account.posts == 0


def test_addresses_and_hashes() -> None:
    """A key may hold what marks a query or a fragment elsewhere."""
    uri, digest = "s3://b/a#b?c.png", "0" * 64
    assert split_hash(with_hash(uri, digest)) == (uri, digest)
    assert split_hash("https://example.com/#sha256=1") == ("https://example.com/#sha256=1", "")
