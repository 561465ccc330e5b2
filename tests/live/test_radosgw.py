"""S3 that really checks: Ceph's radosgw, its signatures, rights, conditions and session tokens."""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from copies import opaque
from flow_checks import statuses
from prefect_aws import AwsCredentials, MinIOCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr
from radosgw import MISSING, PACKAGES, RadosGateway
from servers import FaultyS3, Reply, Scripted, Seen, s3_over_tls

from prefect_nanobanana import (
    BucketNotUsable,
    ImageNotCopied,
    NanoBananaGenerator,
    RunFailed,
    StorageOptions,
)
from prefect_nanobanana.batch._conflicts import Claimed
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.batch._timing import TIMING, Timing
from prefect_nanobanana.flows import copy_pending, generate_images
from prefect_nanobanana.images._copier import Copier
from prefect_nanobanana.models import ImagePrompt, ImageRequest
from prefect_nanobanana.s3._store import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.sandbox.pictures import draw

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed: apt-get install {PACKAGES}"),
]
PNG = draw("a cat", seed="1", longest=96)
OTHER = draw("a dog", seed="2", longest=96)
WaitFor = Callable[..., None]


class Store:
    """The gateway, a bucket of one user's, and another user who may do nothing."""

    def __init__(self, gateway: RadosGateway) -> None:
        self.gateway = gateway
        self.owner, self.guest = gateway.user("owner"), gateway.user("guest")
        self.role = gateway.role("writer", "guest")
        self.client = self._client(self.owner)
        self.client.create_bucket(Bucket="pictures")

    def _client(self, user: tuple[str, str], service: Any = "s3", **options: Any) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.gateway.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=user[0],
            aws_secret_access_key=user[1],
            **options,
        )

    def block(self, user: tuple[str, str] | None = None, endpoint: str | None = None) -> S3Bucket:
        """A bucket block, in a folder of its own."""
        key, secret = user or self.owner
        credentials = MinIOCredentials(
            minio_root_user=key,
            minio_root_password=SecretStr(secret),
            aws_client_parameters=AwsClientParameters(
                endpoint_url=endpoint or self.gateway.endpoint_url
            ),
        )
        folder = f"t-{uuid.uuid4().hex[:8]}"
        return S3Bucket(credentials=credentials, bucket_name="pictures", bucket_folder=folder)

    def session(self, seconds: int) -> S3Bucket:
        """A bucket block with a session token that expires."""
        # The API's least is 900 s, and boto3 insists on it; the gateway was set to less.
        sts = self._client(self.guest, "sts", config=Config(parameter_validation=False))
        found = sts.assume_role(RoleArn=self.role, RoleSessionName="tests", DurationSeconds=seconds)
        found = found["Credentials"]
        credentials = AwsCredentials(
            aws_access_key_id=found["AccessKeyId"],
            aws_secret_access_key=SecretStr(found["SecretAccessKey"]),
            aws_session_token=found["SessionToken"],
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(endpoint_url=self.gateway.endpoint_url),
        )
        folder = f"t-{uuid.uuid4().hex[:8]}"
        return S3Bucket(credentials=credentials, bucket_name="pictures", bucket_folder=folder)

    def allow_guest(self, *actions: str) -> None:
        """Let the other user do something; nothing for nothing at all."""
        if not actions:
            self.client.delete_bucket_policy(Bucket="pictures")
            return
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": ["arn:aws:iam:::user/guest"]},
            "Action": [f"s3:{action}" for action in actions],
            "Resource": ["arn:aws:s3:::pictures", "arn:aws:s3:::pictures/*"],
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        self.client.put_bucket_policy(Bucket="pictures", Policy=json.dumps(policy))

    def images(self, block: S3Bucket) -> list[str]:
        """The keys of the images in a block's folder."""
        listed = self.client.list_objects_v2(Bucket="pictures", Prefix=block.bucket_folder)
        return [item["Key"] for item in listed.get("Contents", []) if "/images/" in item["Key"]]

    def contents(self, block: S3Bucket) -> list[bytes]:
        """The images in a block's folder."""
        keys = self.images(block)
        return [self.client.get_object(Bucket="pictures", Key=key)["Body"].read() for key in keys]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with RadosGateway(tmp_path_factory.mktemp("ceph")) as gateway:
        yield Store(gateway)


def _copy(block: S3Bucket, url: str, options: StorageOptions | None = None, retry: float = 10) -> Any:
    patient = (options or StorageOptions()).model_copy(update={"retry_for_seconds": retry})
    opened = ObjectStore(block, patient)
    with Copier.for_bucket(opened, ["127.0.0.1"]) as copier:
        return copier.copy(url, opened.key("images/x"), {"prompt": "Käse & more", "model": "m"}).image


def test_a_copy_arrives_whole_and_once(store: Store) -> None:
    with FaultyS3(store.gateway.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        block = store.block(endpoint=proxy.url)
        image = _copy(block, host.url)
        assert _copy(block, host.url) == image
    # The tag proves it, and nothing is read back.
    assert [each.method for each in proxy.seen] == ["HEAD", "PUT", "HEAD"]
    assert store.contents(block) == [PNG]
    head = store.client.head_object(Bucket="pictures", Key=image.key)
    assert head["ContentType"] == "image/png"
    assert head["Metadata"] == {"sha256": image.sha256, "prompt": "K%C3%A4se & more", "model": "m"}
    assert head["CacheControl"].startswith("public")


def test_a_store_that_checks_is_believed_if_the_options_say_so(store: Store) -> None:
    """Then no MD5 is worked out, which takes longer than all else, and nothing is read back."""
    with FaultyS3(store.gateway.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        proxy.alter = opaque
        block = store.block(endpoint=proxy.url)
        opened = ObjectStore(block, StorageOptions(verify="store"))
        with Copier.for_bucket(opened, ["127.0.0.1"], expected_images=99) as copier:
            for number in range(3):
                copier.copy(host.url, opened.key(f"images/{number}"))
    assert [each.method for each in proxy.seen] == ["GET", "PUT", "PUT", "PUT"]
    assert store.contents(block) == [PNG] * 3


def test_what_changes_on_the_way_is_refused_and_sent_again(store: Store) -> None:
    left = [1]

    def flip(seen: Seen) -> bytes:
        if seen.method == "PUT" and left[0]:
            left[0] -= 1
            return seen.body[:-1] + b"?"
        return seen.body

    with FaultyS3(store.gateway.endpoint_url) as proxy, Scripted(lambda _: Reply(PNG)) as host:
        proxy.tamper = flip
        block = store.block(endpoint=proxy.url)
        _copy(block, host.url)
    assert store.contents(block) == [PNG]


def test_of_eight_who_store_at_once_one_wins(store: Store) -> None:
    pictures, barrier, arrived = [PNG, OTHER] * 4, threading.Barrier(8), itertools.count()

    def together(seen: Seen) -> None:
        # All have looked, and found nothing, before the first one is stored.
        if seen.method == "PUT" and next(arrived) < 8:
            barrier.wait(30)

    def work(number: int) -> bytes | None:
        try:
            _copy(block, f"{host.url}/{number}")
        except ImageNotCopied as error:
            assert "holds another object" in str(error)
            return None
        return pictures[number]

    with (
        FaultyS3(store.gateway.endpoint_url) as proxy,
        Scripted(lambda seen: Reply(pictures[int(seen.path[1:])])) as host,
        ThreadPoolExecutor(8) as pool,
    ):
        proxy.fault = together
        block = store.block(endpoint=proxy.url)
        kept = [each for each in pool.map(work, range(8)) if each]
    assert kept == store.contents(block) * 4


def test_of_two_runs_that_claim_a_prompt_one_gets_it(store: Store) -> None:
    block = store.block()
    ledgers = [Ledger(ObjectStore(block), "b", flow_run) for flow_run in ("one", "two")]

    def record(attempt: str) -> Record:
        prompt = ImagePrompt(prompt="a cat")
        request = ImageRequest(prompt="a cat", model="m", aspect_ratio="1:1", quantity=1)
        return Record(key="0" * 24, prompt=prompt, request=request, state="asked", attempt=attempt)

    ledgers[0].claim(record("one"))
    with pytest.raises(Claimed):
        ledgers[1].claim(record("two"))
    assert ledgers[0].probe(record("one"))
    # Ceph compares its tags without their quotes, and a claim that is refused stays refused.
    ledgers[0].claim(record("three"))
    assert ledgers[0].store.capabilities.bare_etags
    with pytest.raises(Claimed):
        ledgers[1].claim(record("four"))


def test_storage_options(store: Store) -> None:
    options = StorageOptions(acl="public-read", tags={"team": "Grüße: more"}, storage_class="STANDARD")
    with Scripted(lambda _: Reply(PNG)) as host:
        image = _copy(store.block(), host.url, options)
    grants = store.client.get_object_acl(Bucket="pictures", Key=image.key)["Grants"]
    assert any(grant["Grantee"].get("URI", "").endswith("AllUsers") for grant in grants)
    tags = store.client.get_object_tagging(Bucket="pictures", Key=image.key)["TagSet"]
    assert tags == [{"Key": "team", "Value": "Grüße: more"}]


@pytest.mark.parametrize(
    ("user", "says"),
    [
        (("owner", "wrong"), "the secret key is wrong|wrong or expired credentials"),
        (("nobody", "wrong"), "the access key is not known|wrong or expired credentials"),
        (None, r"access is denied: grant s3:ListBucket"),
    ],
    ids=["wrong secret", "unknown key", "no right"],
)
def test_who_may_not_store_spends_nothing(
    store: Store,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    user: Any,
    says: str,
    prefect_server: None,
) -> None:
    block = store.block(user or store.guest)
    with pytest.raises(BucketNotUsable, match=says) as caught:
        generate_images(prompts=["a cat"], generator=generator, bucket=block, batch="b")
    assert store.guest[1] not in str(caught.value)
    assert sandbox.account.posts == 0


def test_who_may_read_and_not_write_spends_nothing(
    store: Store, generator: NanoBananaGenerator, sandbox: Sandbox, prefect_server: None
) -> None:
    store.allow_guest("ListBucket", "GetObject")
    try:
        with pytest.raises(BucketNotUsable, match="access is denied: grant"):
            generate_images(
                prompts=["a cat"], generator=generator, bucket=store.block(store.guest), batch="b"
            )
    finally:
        store.allow_guest()
    assert sandbox.account.posts == 0


def test_a_run_over_tls(
    store: Store,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    prefect_server: None,
    tmp_path: Path,
) -> None:
    block = store.block()
    with s3_over_tls(store.gateway.endpoint_url, tmp_path) as (_, parameters):
        block.credentials.aws_client_parameters = parameters
        settings: Any = {"generator": generator, "bucket": block, "batch": "b"}
        assert statuses(generate_images(prompts=["a cat", "gore"], **settings)) == ["stored", "warning"]
        assert generate_images(prompts=["a cat", "gore"], **settings).credits_used == 0
    assert len(store.contents(block)) == 1


def test_a_right_that_is_lost_in_mid_run(
    store: Store, generator: NanoBananaGenerator, sandbox: Sandbox, prefect_server: None
) -> None:
    """The run stops with one clear error; when the right is back, what was paid is copied."""
    every = ("ListBucket", "GetObject", "PutObject")
    store.allow_guest(*every)
    block, prompts = store.block(store.guest), [*"abcdef"]
    sandbox.latency = (0.4, 0.4)
    done = threading.Event()

    def withdraw() -> None:
        while len(store.images(block)) < 2 and not done.is_set():
            time.sleep(0.05)
        store.allow_guest()

    watcher = threading.Thread(target=withdraw)
    watcher.start()
    try:
        with TIMING.use(Timing(write_again_for=0.5)):
            with pytest.raises(RunFailed, match="access is denied") as caught:
                generate_images(prompts=prompts, generator=generator, bucket=block, batch="b")
    finally:
        done.set()
        watcher.join()
    report = caught.value.report
    assert report.credits_used == sandbox.account.charged < 6
    store.allow_guest(*every)
    try:
        again = generate_images(
            prompts=prompts, generator=generator, bucket=block, batch="b", fail_on="never"
        )
    finally:
        store.allow_guest()
    # What was in flight when the right went has no record but `asked`: it is not paid for again.
    assert set(statuses(again)) <= {"stored", "unknown"}
    assert again.unknown <= 1
    assert sandbox.account.posts == 6
    assert len(store.images(block)) == again.images


def test_a_private_reference_is_fetched_from_the_store(
    store: Store, generator: NanoBananaGenerator, sandbox: Sandbox, prefect_server: None
) -> None:
    """The sandbox fetches it as the API would, by its signed address, which the store checks."""
    block = store.block()
    opened = ObjectStore(block)
    content = draw("cat", seed="cat", longest=64)
    opened.put(opened.key("cat & co.png"), content, "image/png")
    prompt = ImagePrompt(prompt="a", reference_image_urls=[opened.uri(opened.key("cat & co.png"))])
    for _ in range(2):
        report = generate_images(prompts=[prompt], generator=generator, bucket=block, batch="b")
        assert report.stored == 1
    assert sandbox.account.posts == 1


def test_a_session_token_that_expires(
    store: Store, generator: NanoBananaGenerator, sandbox: Sandbox, prefect_server: None
) -> None:
    expires, block = time.monotonic() + 16, store.session(15)
    assert generate_images(prompts=["a"], generator=generator, bucket=block, batch="b").stored == 1
    time.sleep(max(0, expires - time.monotonic()))
    with pytest.raises(BucketNotUsable, match="session token has expired|expired credentials"):
        generate_images(prompts=["a", "b"], generator=generator, bucket=block, batch="b")
    assert sandbox.account.posts == 1
    with pytest.raises(BucketNotUsable, match="session token has expired|expired credentials"):
        copy_pending(generator=generator, bucket=block)
