"""The ledger: keys that do not depend on places, and records that are never taken for absent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect_aws import S3Bucket
from servers import FaultyS3, Reply, Seen, s3_error

from prefect_nanobanana import BucketNotUsable, Generation, ImagePrompt, LedgerError
from prefect_nanobanana.batch._conflicts import Claimed
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._record import Record
from prefect_nanobanana.models import ImageRequest
from prefect_nanobanana.s3._store import ObjectStore


def _record(key: str = "k1") -> Record:
    return Record(key=key, prompt=ImagePrompt(prompt="ä"), request=ImageRequest(prompt="ä"))


def test_written_and_read_again(bucket: S3Bucket, folder: Path) -> None:
    ledger = Ledger(ObjectStore(bucket), "b/2026-11-22")
    assert ledger.read(["k1"]) == {}
    record = _record()
    ledger.write(record)
    ledger.write(_record("other"))
    (read,) = ledger.read(["k1", "k2"]).values()
    assert read.updated_at is not None
    assert read.model_copy(update={"updated_at": None}) == record
    assert (folder / "b/2026-11-22/records/k1.json").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read, so nothing is spent: correct it"),
        (b'{"key": "k1"', "cannot be read, so nothing is spent"),
        (b"{}", "cannot be read, so nothing is spent"),
    ],
)
def test_a_record_that_cannot_be_read_is_not_absent(
    bucket: S3Bucket, folder: Path, content: bytes, says: str
) -> None:
    ledger = Ledger(ObjectStore(bucket), "b")
    ledger.write(_record())
    (folder / "b/records/k1.json").write_bytes(content)
    with pytest.raises(LedgerError, match=says):
        ledger.read(["k1"])


@pytest.mark.parametrize(
    ("state", "told", "may"),
    [
        ("planned", None, True),
        ("not_charged", None, True),
        ("failed", 0, True),
        ("failed", 1, False),
        ("failed", None, False),
        ("warning", 0, False),
        ("asked", None, False),
        ("unknown", None, False),
        ("generated", 0, False),
        ("stored", 1, False),
    ],
)
def test_what_may_be_asked(state: Any, told: int | None, may: bool) -> None:
    generation = Generation(status="failed", credits_used=told)
    record = _record().model_copy(update={"state": state, "generation": generation})
    assert record.safe_to_send is may


def test_a_record_of_a_newer_version(bucket: S3Bucket) -> None:
    ledger = Ledger(ObjectStore(bucket), "b")
    record = _record().model_copy(update={"version": 2})
    ledger.write(record)
    with pytest.raises(LedgerError, match="newer version: update"):
        ledger.read(["k1"])


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (s3_error(403, "AccessDenied"), BucketNotUsable),
        (s3_error(404, "NoSuchKey"), LedgerError),
        (Reply(b"", 400), LedgerError),
    ],
    ids=["denied", "gone", "odd"],
)
def test_the_store_failing_is_never_an_empty_ledger(
    make_bucket: Any, s3: Any, waiting: Callable[..., None], fault: Reply, kind: type[Exception]
) -> None:
    waiting(write_again_for=0.0)
    with FaultyS3(s3.endpoint_url) as proxy:
        ledger = Ledger(ObjectStore(make_bucket(endpoint_url=proxy.url)), "b")
        ledger.write(_record())
        proxy.fault = lambda seen: fault if seen.method == "GET" and "k1.json" in seen.path else None
        with pytest.raises(kind):
            ledger.read(["k1"])
        proxy.fault = lambda seen: s3_error(403, "AccessDenied") if "list-type" in seen.path else None
        with pytest.raises(BucketNotUsable):
            ledger.read(["k1"])
        proxy.fault = lambda seen: fault if seen.method == "PUT" else None
        with pytest.raises(kind):
            ledger.write(_record())


def test_of_two_runs_one_claims_a_prompt(make_bucket: Any, moto_url: str) -> None:
    block = make_bucket(endpoint_url=moto_url)
    one, other = (Ledger(ObjectStore(block), "b", run) for run in ("run-1", "run-2"))
    first, second = (_record().model_copy(update={"attempt": name}) for name in ("1", "2"))
    one.claim(first)
    with pytest.raises(Claimed, match="another run of this batch"):
        other.claim(second)
    # Who has read the record may claim it, and then the other may not.
    assert other.read(["k1"])["k1"].attempt == "1"
    other.claim(second)
    with pytest.raises(Claimed):
        one.claim(first.model_copy(update={"attempt": "3"}))


def test_without_conditional_writes_a_claim_is_looked_at_again(
    bucket: S3Bucket, waiting: Callable[..., None]
) -> None:
    """On a store that ignores the conditions, as `rclone serve s3` does."""
    waiting(claim=0.3)
    one, other = (Ledger(ObjectStore(bucket), "b") for _ in range(2))
    planned = _record()
    known = [one.store.capabilities.conditional_writes]
    one.claim(planned)
    assert [*known, one.store.capabilities.conditional_writes] == [None, None]
    assert one.probe(planned) is one.store.capabilities.conditional_writes is False
    other.probe(planned)
    first, second = (planned.model_copy(update={"attempt": name}) for name in ("one", "other"))
    with ThreadPoolExecutor(2) as pool:
        claims = [
            pool.submit(ledger.claim, record) for ledger, record in ((one, first), (other, second))
        ]
        errors = [claim.exception(30) for claim in claims]
    assert [type(error) for error in errors if error] == [Claimed]
    late = Ledger(ObjectStore(bucket), "b")
    with pytest.raises(Claimed):
        late.claim(planned.model_copy(update={"attempt": "late"}))


def test_conditional_writes_are_found(make_bucket: Any, moto_url: str) -> None:
    ledger = Ledger(ObjectStore(make_bucket(endpoint_url=moto_url)), "b")
    record = _record()
    ledger.claim(record)
    assert ledger.probe(record) is ledger.store.capabilities.conditional_writes is True


@pytest.mark.parametrize("times", [1, 3])
def test_a_claim_whose_answer_is_lost_meets_itself(make_bucket: Any, moto_url: str, times: int) -> None:
    left = [times]

    def lose(seen: Seen) -> bool:
        if seen.method == "PUT" and left[0]:
            left[0] -= 1
            return True
        return False

    with FaultyS3(moto_url) as proxy:
        proxy.lose_answer = lose
        ledger = Ledger(ObjectStore(make_bucket(endpoint_url=proxy.url)), "b")
        record = _record().model_copy(update={"attempt": "mine"})
        ledger.claim(record)
    assert left == [0]
