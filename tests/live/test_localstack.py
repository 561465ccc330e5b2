"""S3 that checks the checksums it is sent, localstack's: a byte that changes on the way is noticed."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from flow_checks import statuses
from localstack import MISSING, LocalStack
from PIL import Image
from prefect_aws import MinIOCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr
from servers import FaultyS3, Reply, Scripted, Seen

from prefect_nanobanana import (
    ImageNotCopied,
    NanoBananaGenerator,
    RunReport,
    StorageError,
    StorageOptions,
)
from prefect_nanobanana.batch._conflicts import Claimed
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.flows import generate_images
from prefect_nanobanana.images._body import IN_MEMORY_BYTES
from prefect_nanobanana.images._copier import Copier
from prefect_nanobanana.models import ImagePrompt, ImageRequest, StoredImage
from prefect_nanobanana.s3._capabilities import Capabilities
from prefect_nanobanana.s3._store import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.pictures import draw

pytestmark = [pytest.mark.server, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
PNG = draw("a cat", seed="1", longest=96)
OTHER = draw("a dog", seed="2", longest=96)
BUCKET = "pictures"
TABLES = ("images.jsonl", "prompts.parquet", "images.parquet")
KEY = "arn:aws:kms:us-east-1:000000000000:key/0123"


def _noise() -> bytes:
    """A picture that is too large to be kept in memory on its way."""
    pixels, out = random.Random(1).randbytes(3 * 900 * 900), BytesIO()
    Image.frombytes("RGB", (900, 900), pixels).save(out, "PNG")
    assert out.tell() > IN_MEMORY_BYTES
    return out.getvalue()


PICTURES = {"in memory": PNG, "on disk": _noise()}


class Store:
    """The server, and a client that asks it directly."""

    def __init__(self, server: LocalStack) -> None:
        self.server = server
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=server.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
            config=Config(retries={"total_max_attempts": 1}),
        )
        self.client.create_bucket(Bucket=BUCKET)

    def block(self, endpoint: str | None = None, verify: Path | None = None) -> S3Bucket:
        """A bucket block, in a folder of its own."""
        parameters = AwsClientParameters(
            endpoint_url=endpoint or self.server.endpoint_url, verify=verify
        )
        credentials = MinIOCredentials(
            minio_root_user="any",
            minio_root_password=SecretStr("any"),
            aws_client_parameters=parameters,
        )
        folder = f"t-{uuid.uuid4().hex[:8]}"
        return S3Bucket(credentials=credentials, bucket_name=BUCKET, bucket_folder=folder)

    def keys(self, block: S3Bucket) -> list[str]:
        """What is in a block's folder."""
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=block.bucket_folder)
        return [item["Key"] for item in listed.get("Contents", [])]

    def read(self, key: str) -> bytes:
        """What is stored at a key."""
        content: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def contents(self, block: S3Bucket) -> list[bytes]:
        """All that is stored in a block's folder."""
        return [self.read(key) for key in self.keys(block)]

    def head(self, key: str) -> Any:
        """What the store says of an object."""
        return self.client.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with LocalStack(tmp_path_factory.mktemp("localstack")) as server:
        yield Store(server)


def _copy(
    block: S3Bucket, url: str, options: StorageOptions | None = None, retry: float = 20
) -> StoredImage:
    patient = (options or StorageOptions()).model_copy(update={"retry_for_seconds": retry})
    opened = ObjectStore(block, patient)
    with Copier.for_bucket(opened, ["127.0.0.1"]) as copier:
        return copier.copy(url, opened.key("images/x"), {"prompt": "Käse", "model": "m"}).image


def _sha256(content: bytes) -> str:
    """As S3 writes it."""
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def _asked(proxy: FaultyS3) -> list[str]:
    return [seen.method for seen in proxy.seen]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ChecksumSHA256": _sha256(OTHER)},
        {"ContentMD5": base64.b64encode(hashlib.md5(OTHER).digest()).decode()},
        {"ChecksumCRC32": "AAAAAA=="},
    ],
    ids=["SHA-256", "MD5", "CRC32"],
)
def test_the_store_really_checks(store: Store, wrong: dict[str, str]) -> None:
    """Without this, what follows would show nothing."""
    key = f"direct/{uuid.uuid4().hex}"
    with pytest.raises(ClientError) as caught:
        store.client.put_object(Bucket=BUCKET, Key=key, Body=PNG, **wrong)
    assert caught.value.response["Error"]["Code"] == "BadDigest"
    with pytest.raises(ClientError, match="404"):
        store.head(key)


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_a_copy_carries_its_checksum_and_is_sent_once(store: Store, picture: bytes) -> None:
    with FaultyS3(store.server.endpoint_url) as proxy, Scripted(lambda _: Reply(picture)) as host:
        block = store.block(proxy.url)
        image = _copy(block, host.url + "/1")
        assert _copy(block, host.url + "/2").sha256 == image.sha256
    # Looked up, put; looked up: the tag proves it, nothing is read back or sent again.
    assert _asked(proxy) == ["HEAD", "PUT", "HEAD"]
    assert proxy.seen[1].headers["x-amz-checksum-sha256"] == _sha256(picture)
    assert store.contents(block) == [picture]
    head = store.head(image.key)
    assert head["ChecksumSHA256"] == _sha256(picture)
    assert (head["ContentType"], head["ContentLength"]) == ("image/png", len(picture))
    assert head["Metadata"] == {"sha256": image.sha256, "prompt": "K%C3%A4se", "model": "m"}
    assert head["CacheControl"].startswith("public")


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_over_tls(store: Store, picture: bytes) -> None:
    """There boto3 by itself signs and frames bodies in another way."""
    opened = ObjectStore(store.block(store.server.tls_url, store.server.authority))
    signed: list[str] = []
    opened._connection.client.meta.events.register_last(
        "before-send.s3.PutObject",
        lambda request, **_: signed.append(request.headers["x-amz-content-sha256"].decode()),
    )
    with (
        Scripted(lambda _: Reply(picture)) as host,
        Copier.for_bucket(opened, ["127.0.0.1"]) as copier,
    ):
        image = copier.copy(host.url, opened.key("images/x")).image
    assert signed == [image.sha256]
    assert store.read(image.key) == picture
    assert store.head(image.key)["ChecksumSHA256"] == _sha256(picture)


def _flip_byte(seen: Seen) -> bytes:
    return seen.body[:-1] + bytes([seen.body[-1] ^ 1])


def _wrong_digest(seen: Seen) -> bytes:
    seen.headers["x-amz-checksum-sha256"] = _sha256(OTHER)
    return seen.body


TAMPERS: dict[str, Callable[[Seen], bytes]] = {"body": _flip_byte, "digest": _wrong_digest}


@pytest.mark.parametrize("tamper", TAMPERS.values(), ids=TAMPERS)
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_what_changes_on_the_way_is_refused_and_sent_again(
    store: Store, picture: bytes, tamper: Callable[[Seen], bytes]
) -> None:
    left, stored = [2], []

    def twice(seen: Seen) -> bytes:
        if seen.method == "PUT" and left[0]:
            left[0] -= 1
            return tamper(seen)
        return seen.body

    with FaultyS3(store.server.endpoint_url) as proxy, Scripted(lambda _: Reply(picture)) as host:
        block = store.block(proxy.url)
        proxy.tamper, proxy.after = twice, lambda: stored.append(store.contents(block))
        image = _copy(block, host.url)
    assert _asked(proxy) == ["HEAD", "PUT"] * 3
    assert stored == [[]] * 5 + [[picture]]
    assert len(host.seen) == 1, "the image need not be fetched again"
    assert store.head(image.key)["ChecksumSHA256"] == _sha256(picture)


def test_what_always_changes_on_the_way_is_never_stored(store: Store) -> None:
    with FaultyS3(store.server.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        proxy.tamper = lambda seen: _flip_byte(seen) if seen.method == "PUT" else seen.body
        block = store.block(proxy.url)
        with pytest.raises(StorageError, match=r"BadDigest: .* for pictures/t-.*/images/x\.png"):
            _copy(block, host.url, retry=0.5)
        assert store.keys(block) == []
        assert _asked(proxy).count("PUT") > 1
        proxy.tamper = lambda seen: seen.body
        _copy(block, host.url)
    assert store.contents(block) == [PNG]


def test_of_eight_who_store_at_once_one_wins(store: Store) -> None:
    pictures, barrier, arrived = [PNG, OTHER] * 4, threading.Barrier(8), count()

    def together(seen: Seen) -> None:
        # All have looked, and found nothing, before the first one is stored.
        if seen.method == "PUT" and next(arrived) < 8:
            barrier.wait(60)

    def work(number: int) -> bytes | None:
        try:
            _copy(block, f"{host.url}/{number}")
        except ImageNotCopied as error:
            assert "holds another object" in str(error)
            return None
        return pictures[number]

    with (
        FaultyS3(store.server.endpoint_url) as proxy,
        Scripted(lambda seen: Reply(pictures[int(seen.path[1:])])) as host,
        ThreadPoolExecutor(8) as pool,
    ):
        proxy.fault = together
        block = store.block(proxy.url)
        kept = [each for each in pool.map(work, range(8)) if each]
    # One put is taken. Its like find their own bytes there, the others do not overwrite them.
    assert kept == store.contents(block) * 4
    assert _asked(proxy).count("PUT") == 8


@pytest.mark.parametrize(
    ("conditional", "expected", "asked"),
    [
        (None, 1, ["HEAD"]),
        (True, 1, ["PUT", "HEAD"]),
        (None, 99, ["GET", "HEAD"]),
        (True, 99, ["PUT", "HEAD"]),
    ],
)
def test_an_object_of_somebody_else_is_never_overwritten(
    store: Store,
    conditional: bool | None,
    expected: int,
    asked: list[str],
) -> None:
    with FaultyS3(store.server.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        block = store.block(proxy.url)
        key = f"{block.bucket_folder}/images/x.png"
        store.client.put_object(Bucket=BUCKET, Key=key, Body=b"mine")
        opened = ObjectStore(block, None, Capabilities(conditional_writes=conditional))
        with (
            Copier.for_bucket(opened, ["127.0.0.1"], expected_images=expected) as copier,
            pytest.raises(ImageNotCopied, match="holds another object"),
        ):
            copier.copy(host.url, opened.key("images/x"))
    assert _asked(proxy) == asked
    assert store.contents(block) == [b"mine"]


def _record(attempt: str) -> Record:
    request = ImageRequest(prompt="a cat", model="m", aspect_ratio="1:1", quantity=1)
    prompt = ImagePrompt(prompt="a cat")
    return Record(key="0" * 24, prompt=prompt, request=request, state="asked", attempt=attempt)


@pytest.mark.parametrize("there", [False, True], ids=["new", "asked before"])
def test_of_two_runs_that_claim_a_prompt_one_gets_it(store: Store, there: bool) -> None:
    block, key = store.block(), "0" * 24
    known = Capabilities(conditional_writes=True)  # nothing is looked up before: the store alone decides
    ledgers = [Ledger(ObjectStore(block, None, known), "b", run) for run in ("one", "two")]
    if there:
        Ledger(ObjectStore(block), "b").write(_record("before"))
    for ledger in ledgers:
        assert list(ledger.read([key])) == [key] * there
    ledgers[0].claim(_record("one"))
    with pytest.raises(Claimed):
        ledgers[1].claim(_record("two"))
    assert ledgers[0].read([key])[key].attempt == "one"
    assert ledgers[0].probe(_record("one"))


@pytest.mark.parametrize(
    "encryption", [{"encryption": "AES256"}, {"encryption": "aws:kms", "kms_key_id": KEY}], ids=str
)
def test_storage_options_are_kept(store: Store, encryption: dict[str, Any]) -> None:
    options = StorageOptions(
        storage_class="STANDARD_IA",
        tags={"team": "Grüße: more", "a+b": "c d"},
        cache_control="private, max-age=60",
        acl="public-read",
        **encryption,
    )
    with FaultyS3(store.server.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        block = store.block(proxy.url)
        image = _copy(block, host.url, options)
        _copy(block, host.url, options)
    assert _asked(proxy) == ["HEAD", "PUT", "HEAD"]
    # It encrypts with AES256 if nothing is said, too, as AWS does.
    assert proxy.seen[1].headers["x-amz-server-side-encryption"] == encryption["encryption"]
    head = store.head(image.key)
    assert head["StorageClass"] == "STANDARD_IA"
    assert head["ServerSideEncryption"] == encryption["encryption"]
    assert head.get("SSEKMSKeyId") == encryption.get("kms_key_id")
    assert head["CacheControl"] == "private, max-age=60"
    assert head["ChecksumSHA256"] == _sha256(PNG)
    tags = store.client.get_object_tagging(Bucket=BUCKET, Key=image.key)["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == options.tags
    grants = store.client.get_object_acl(Bucket=BUCKET, Key=image.key)["Grants"]
    assert any(grant["Grantee"].get("URI", "").endswith("AllUsers") for grant in grants)


def test_a_whole_run_through_a_network_that_changes_bytes(
    store: Store, generator: NanoBananaGenerator, sandbox: Sandbox, prefect_server: None
) -> None:
    """Each image, and each record of something paid, arrives changed once; nobody notices in the end."""
    changed: Counter[str] = Counter()

    def once(seen: Seen) -> bytes:
        paid = "/images/" in seen.path or ("/records/" in seen.path and "if-match" in seen.headers)
        if seen.method == "PUT" and paid and not changed[seen.path]:
            changed[seen.path] += 1
            return _flip_byte(seen)
        return seen.body

    options = StorageOptions(storage_class="STANDARD_IA", encryption="AES256", tags={"team": "a b"})
    with FaultyS3(store.server.endpoint_url) as proxy:
        proxy.tamper = once
        block = store.block(proxy.url)

        def run() -> tuple[RunReport, Counter[str]]:
            proxy.seen.clear()
            prompts: list[str | ImagePrompt] = [
                "a cat",
                "gore",
                ImagePrompt(prompt="a bird", quantity=2),
            ]
            report = generate_images(
                prompts=prompts, generator=generator, bucket=block, batch="b", storage=options
            )
            return report, Counter(seen.path for seen in proxy.seen if seen.method == "PUT")

        report, sent = run()
        again, sent_again = run()
    images = [image for outcome in report.outcomes for image in outcome.images]
    paths = [f"/{BUCKET}/{image.key}" for image in images]
    assert statuses(report) == ["stored", "warning", "stored"]
    assert report.credits_used == sandbox.account.charged == 4
    assert [(sent[path], changed[path]) for path in paths] == [(2, 1)] * 3
    assert len(changed) == len(images) + report.prompts
    _is_stored_as_served(store, block, images, sandbox)
    _is_published(store, block, images)
    # The second run found it all, asked for nothing and sent but the pages and the batch's statement.
    assert (statuses(again), again.credits_used) == (statuses(report), 0)
    assert sandbox.account.posts == 3
    pages = [path.rpartition("/")[2] for path in sent_again if "/nanobanana-credits/" not in path]
    assert {*pages} == {"index.html", "manifest.jsonl", *TABLES}
    assert len(sent_again) <= len(pages) + 2


def _is_stored_as_served(
    store: Store, block: S3Bucket, images: list[StoredImage], sandbox: Sandbox
) -> None:
    keys = [key for key in store.keys(block) if "/images/" in key]
    assert sorted(keys) == sorted(image.key for image in images)
    assert sorted(map(store.read, keys)) == sorted(sandbox.images.values())
    for image in images:
        head = store.head(image.key)
        assert base64.b64decode(head["ChecksumSHA256"]).hex() == image.sha256
        assert head["StorageClass"] == "STANDARD_IA"
    for key in store.keys(block):
        assert store.head(key)["ServerSideEncryption"] == "AES256"
        tags = store.client.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]
        assert tags == [{"Key": "team", "Value": "a b"}]
    records = [store.head(key) for key in store.keys(block) if "/records/" in key]
    assert [head.get("StorageClass") for head in records] == [None] * 3


def _is_published(store: Store, block: S3Bucket, images: list[StoredImage]) -> None:
    manifest = store.read(f"{block.bucket_folder}/b/manifest.jsonl").decode().splitlines()
    named = [image["key"] for row in manifest for image in json.loads(row).get("images", [])]
    assert named == [image.key for image in images]
    page = store.read(f"{block.bucket_folder}/b/index.html").decode()
    assert all(image.key.rpartition("/")[2] in page for image in images)
