"""What processes may spend of a budget that they share: its books in a real S3 store."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prefect_aws import S3Bucket
from servers import FaultyS3, Reply, Seen, s3_error

from prefect_nanobanana import StorageError
from prefect_nanobanana.batch._budget import Budget
from prefect_nanobanana.batch._prices import Prices
from prefect_nanobanana.budgets import BudgetTerms, Grants
from prefect_nanobanana.budgets._entries import Entry, newest
from prefect_nanobanana.budgets._grants import TIMES
from prefect_nanobanana.budgets._periods import Period, PeriodKind, period_of
from prefect_nanobanana.models import Credits, ImageModel, ImageRequest
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox.s3 import LocalS3

Join = Callable[..., Grants]
MODEL = ImageModel(name="nano-banana", credits_cost=1)
UNKNOWN: Callable[[str, str], Credits | None] = lambda _batch, _process: None  # noqa: E731


def _terms(credits: Credits = 100, kind: PeriodKind = "month") -> BudgetTerms:
    return BudgetTerms("pictures", credits, kind, ZoneInfo("Europe/Berlin"))


@pytest.fixture
def join(bucket: S3Bucket) -> Join:
    """A process that shares the test's budget."""

    def make(
        credits: Credits = 100, *, batch: str = "s3://b/one", settle: Any = UNKNOWN, kind: Any = "month"
    ) -> Grants:
        return Grants(ObjectStore(bucket), _terms(credits, kind), batch, settle)

    return make


# Periods.


@pytest.mark.parametrize(
    ("kind", "zone", "moment", "name", "ends"),
    [
        ("day", "Etc/UTC", "2026-11-27T23:59:59", "2026-11-27", "2026-11-28T00:00"),
        ("day", "Europe/Berlin", "2026-11-27T23:30:00", "2026-11-28", "2026-11-28T23:00"),
        # Clocks are put back, and forward: a day of 25 hours, and one of 23.
        ("day", "Europe/Berlin", "2026-10-25T12:00:00", "2026-10-25", "2026-10-25T23:00"),
        ("day", "Europe/Berlin", "2026-03-29T12:00:00", "2026-03-29", "2026-03-29T22:00"),
        # At midnight itself: the day before ends where the clock jumps.
        ("day", "Asia/Beirut", "2026-03-28T12:00:00", "2026-03-28", "2026-03-28T22:00"),
        ("week", "Etc/UTC", "2026-11-29T23:00:00", "2026-W48", "2026-11-30T00:00"),
        ("week", "Etc/UTC", "2027-01-03T12:00:00", "2026-W53", "2027-01-04T00:00"),
        ("month", "Etc/UTC", "2026-12-31T23:59:00", "2026-12", "2027-01-01T00:00"),
        ("month", "America/New_York", "2026-12-01T04:59:00", "2026-11", "2026-12-01T05:00"),
        ("month", "Etc/UTC", "2028-02-29T00:00:00", "2028-02", "2028-03-01T00:00"),
    ],
)
def test_a_period_is_that_of_people_in_a_time_zone(
    kind: PeriodKind, zone: str, moment: str, name: str, ends: str
) -> None:
    found = period_of(datetime.fromisoformat(moment).replace(tzinfo=UTC), kind, ZoneInfo(zone))
    assert found == Period(name, datetime.fromisoformat(ends).replace(tzinfo=UTC))


@pytest.mark.parametrize("kind", ["day", "week", "month"])
@pytest.mark.parametrize("zone", ["Etc/UTC", "America/Sao_Paulo", "Asia/Beirut", "Australia/Lord_Howe"])
def test_periods_follow_each_other_without_a_gap(kind: PeriodKind, zone: str) -> None:
    moment, names = datetime(2015, 1, 1, tzinfo=UTC), set[str]()
    while moment.year < 2027:
        period = period_of(moment, kind, ZoneInfo(zone))
        assert moment < period.ends
        assert period.name not in names
        assert period_of(period.ends - timedelta(seconds=1), kind, ZoneInfo(zone)) == period
        names.add(period.name)
        moment = period.ends


# Entries.


@pytest.mark.parametrize("credits", [0, 7, Decimal("0.5"), Decimal("1E-9"), 10**12])
@pytest.mark.parametrize("closed", [True, False])
def test_a_key_says_all_that_others_must_know(credits: Credits, closed: bool) -> None:
    entry = Entry("a" * 12, "b" * 12, 3, credits, closed)
    found = Entry.read(entry.name, "key", datetime(2026, 1, 1, tzinfo=UTC))
    assert found == replace(entry, key="key", written=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "name", ["", "x.json", "a.b~1~2.open.json", f"{'a' * 12}.{'b' * 12}~1~1.2.3.open.json"]
)
def test_what_is_no_entry_counts_nothing(name: str) -> None:
    assert Entry.read(name, "key", datetime.now(UTC)) is None


def test_the_last_entry_of_a_process_counts() -> None:
    entries = [
        Entry("a" * 12, p * 12, n, c, False) for p, n, c in (("b", 0, 9), ("b", 1, 4), ("c", 0, 1))
    ]
    for order in (entries, entries[::-1]):
        assert sum(entry.credits for entry in newest(order).values()) == 5


# Shares.


def test_what_is_granted_is_kept_for_the_process_and_given_back(join: Join) -> None:
    one, two = join(10), join(10)
    assert not one.covers(1)
    assert one.extend(1, ahead=0, spent=0)
    assert one.covers(1)
    assert not one.covers(2)
    assert two.extend(9, ahead=60, spent=0)
    assert not one.extend(2, ahead=0, spent=1)
    assert "'pictures' has 0 of 10 credits left until 20" in one.left
    assert one.covers(1), "what it had it keeps"
    two.close(3)
    with TIMES.use(replace(TIMES.get(), room=0.0)):
        three = join(10)
        assert three.extend(6, ahead=0, spent=0)
        assert three.room() == 0
    one.close(1)
    three.close(Decimal("2.5"))
    assert join(10).room() == Decimal("3.5")


def test_some_is_set_aside_for_what_follows_but_never_most_of_it(join: Join) -> None:
    one = join(1000)
    assert one.extend(1, ahead=60, spent=0)
    assert one.covers(61)
    assert not one.covers(62)
    rich = join(1000)
    assert rich.extend(1, ahead=10_000, spent=0)
    assert rich.covers(200)
    other = join(1000)
    assert other.extend(500, ahead=0, spent=0), "another one finds most of it"


def test_what_was_spent_before_it_began_to_count_is_not_its_own(join: Join) -> None:
    one = join(10)
    assert one.extend(1005, ahead=0, spent=1000)
    one.close(1004)
    assert join(10).room() == 6


def test_books_hold_neither_keys_nor_prompts(join: Join, bucket: S3Bucket, s3: LocalS3) -> None:
    one = join(10)
    one.extend(1, ahead=60, spent=0)
    one.close(1)
    folder = s3.folder / bucket.bucket_name / bucket.bucket_folder / "nanobanana-budgets/pictures"
    file = max(path for path in folder.rglob("*") if path.is_file())
    assert json.loads(file.read_text()) == {"batch": "s3://b/one", "credits": "1", "closed": True}


def test_a_new_period_begins_anew(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    one = join(10, kind="day")
    assert one.extend(10, ahead=0, spent=0)
    assert not one.extend(11, ahead=0, spent=10)
    monkeypatch.setattr(one, "_period", Period("2026-01-01", datetime.now(UTC) - timedelta(seconds=9)))
    assert not one.covers(10)
    assert one.extend(11, ahead=0, spent=10, told=10), "the day before is closed with 10"
    one.close(15)
    assert join(10, kind="day").room() == 5


def test_the_store_s_clock_says_which_period_it_is(
    bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is a day late writes into the books of the right day."""
    late = Grants(ObjectStore(bucket), _terms(10, "day"), "s3://b/one", UNKNOWN)
    monkeypatch.setattr(late, "_ahead", timedelta(days=-1))
    assert late.extend(4, ahead=0, spent=0)
    assert late.covers(4)
    right = Grants(ObjectStore(bucket), _terms(10, "day"), "s3://b/two", UNKNOWN)
    assert right.room() == 6
    late.close(3)
    assert right.room() == 7


# Whoever dies.


def test_what_a_dead_process_had_is_settled_by_its_records(join: Join) -> None:
    dead = join(10, batch="s3://b/dead")
    assert dead.extend(8, ahead=0, spent=0)
    asked = list[tuple[str, str]]()

    def settle(batch: str, process: str) -> int:
        asked.append((batch, process))
        return 3

    other = join(10, settle=settle)
    assert not other.extend(5, ahead=0, spent=0), "it may be alive"
    assert asked == []
    other.close(0)
    with TIMES.use(replace(TIMES.get(), dead=-1.0, room=0.0)):
        other = join(10, settle=settle)
        assert other.extend(5, ahead=0, spent=0)
        assert ("s3://b/dead", dead.process) in asked
        assert other.room() == 2
        assert join(10, settle=settle).room() == 2, "settled for all"


def test_what_nobody_can_settle_counts_at_worst(join: Join) -> None:
    dead = join(10)
    assert dead.extend(8, ahead=0, spent=0)
    with TIMES.use(replace(TIMES.get(), dead=-1.0, room=0.0)):
        for settle in (UNKNOWN, lambda _batch, _process: 9):
            other = join(10, settle=settle)
            assert not other.extend(3, ahead=0, spent=0)
            assert other.extend(2, ahead=0, spent=0)
            other.close(0)


def test_what_an_ended_process_of_the_batch_had_is_corrected(join: Join) -> None:
    """An unknown outcome counts at worst, until the batch's next run finds out."""
    first = join(10)
    assert first.extend(5, ahead=0, spent=0)
    first.close(5)
    known = [5]
    second = join(10, settle=lambda _batch, _process: known[0])
    assert second.extend(1, ahead=0, spent=0)
    known[0] = 4
    second.close(1)
    assert join(10).room() == 5
    other = join(10, batch="s3://b/other", settle=lambda _batch, _process: 0)
    assert other.extend(1, ahead=0, spent=0)
    assert other.room() == 4, "what ended is the affair of its own batch"


def test_one_that_was_away_for_long_writes_again_first(join: Join) -> None:
    one = join(10)
    assert one.extend(2, ahead=0, spent=0)
    assert one.covers(2)
    with TIMES.use(replace(TIMES.get(), renew=-1.0)):
        sleepy = join(10)
        assert sleepy.extend(2, ahead=0, spent=0)
        assert not sleepy.covers(2)


# The store.


@pytest.fixture
def front(s3: LocalS3) -> Iterator[FaultyS3]:
    """Stands before the store."""
    with FaultyS3(s3.endpoint_url) as server:
        yield server


@pytest.fixture
def store(front: FaultyS3, make_bucket: Callable[..., S3Bucket]) -> ObjectStore:
    """The store behind it."""
    return ObjectStore(make_bucket(endpoint_url=front.url))


def _denying(method: str) -> Callable[[Seen], Reply | None]:
    return lambda seen: s3_error(403, "AccessDenied") if seen.method == method else None


def test_without_its_books_nothing_is_granted(front: FaultyS3, store: ObjectStore) -> None:
    for method in ("PUT", "GET"):
        front.fault = _denying(method)
        grants = Grants(store, _terms(), "s3://b/one", UNKNOWN)
        with pytest.raises(StorageError):
            grants.extend(1, ahead=0, spent=0)
        assert not grants.covers(1)


def test_a_store_that_lets_nothing_be_deleted_will_do(front: FaultyS3, store: ObjectStore) -> None:
    front.fault = _denying("DELETE")
    grants = Grants(store, _terms(10), "s3://b/one", UNKNOWN)
    for total in (2, 4, 6):
        assert grants.extend(total, ahead=0, spent=total - 2)
    grants.close(5)
    assert Grants(store, _terms(10), "s3://b/two", UNKNOWN).room() == 5


def test_an_answer_that_is_lost_grants_nothing_for_free(front: FaultyS3, store: ObjectStore) -> None:
    """It is written, and nobody knows: it counts."""
    front.fault = lambda seen: Reply(reset=True) if seen.method == "GET" else None
    grants = Grants(store, _terms(10), "s3://b/one", UNKNOWN)
    with pytest.raises(StorageError):
        grants.extend(6, ahead=0, spent=0)
    front.fault = lambda _: None
    assert Grants(store, _terms(10), "s3://b/two", UNKNOWN).room() == 4
    grants.close(0)
    assert Grants(store, _terms(10), "s3://b/two", UNKNOWN).room() == 10


# Any interleaving.


@pytest.mark.parametrize("seed", range(4))
def test_no_interleaving_grants_more_than_there_is(bucket: S3Bucket, seed: int) -> None:
    """Many at once ask, spend, give back or vanish; what is spent never exceeds the budget."""
    budget, lock, spent, left_alone = 60, threading.Lock(), [0], dict[str, int]()
    most = [0]

    def work(n: int) -> None:
        dice = random.Random(seed * 1000 + n)
        grants = Grants(ObjectStore(bucket), _terms(budget), f"s3://b/{n}", UNKNOWN)
        own = 0
        for _ in range(dice.randint(1, 6)):
            price = dice.randint(1, 6)
            if not grants.covers(own + price) and not grants.extend(
                own + price, ahead=dice.choice([0, 10, 60]), spent=own
            ):
                continue
            with lock:  # it is paid at this moment
                spent[0] += price
                most[0] = max(most[0], spent[0])
            own += price
        if dice.random() < 0.7:
            grants.close(own)
        else:
            with lock:
                left_alone[grants.process] = own

    with TIMES.use(replace(TIMES.get(), room=0.0, again=0.02)), ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(30)))
    assert most[0] <= budget
    assert spent[0] > budget / 2, "what the dead hold apart, it is put to use"
    with TIMES.use(replace(TIMES.get(), dead=-1.0, room=0.0)):
        last = Grants(
            ObjectStore(bucket),
            _terms(budget),
            "s3://b/last",
            lambda _, process: left_alone.get(process),
        )
        last.extend(budget, ahead=0, spent=0)  # more than there is: all that died is settled
        last.close(0)
        assert last.room() == budget - spent[0], "nothing stays set aside for ever"


# What a reviewer broke.


def test_one_that_was_taken_for_dead_has_no_claim_to_what_it_had(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for a slot for hours; others have settled it, and spent the rest."""
    one = join(60)
    assert one.extend(50, ahead=0, spent=0)
    with TIMES.use(replace(TIMES.get(), dead=-1.0, room=0.0)):
        two = join(60, batch="s3://b/two", settle=lambda _batch, _process: 5)
        assert two.extend(40, ahead=0, spent=0)
        two.close(40)
    monkeypatch.setattr(one, "_renewed", (-1e9, -1e9))
    assert not one.covers(6)
    assert one.extend(6, ahead=0, spent=5)
    assert not one.covers(21), "60 less 40"


def test_a_clock_that_is_put_forward_and_back_opens_no_period_anew(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = join(60, kind="day")
    assert one.extend(50, ahead=0, spent=0)
    monkeypatch.setattr(one, "_ahead", timedelta(days=1))
    assert not one.covers(50)
    assert not one.extend(100, ahead=0, spent=50, told=50)
    assert one.extend(60, ahead=0, spent=50, told=50), "what was left"
    assert join(60, kind="day").room() == 0


def test_who_lists_page_by_page_always_meets_an_entry_of_a_process(
    join: Join, bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries follow each other in the order of keys, and the one before the last stays."""
    one = join(60)
    for n in range(1, 12):
        assert one.extend(n, ahead=0, spent=n - 1)
    assert one.extend(40, ahead=0, spent=11)
    store = ObjectStore(bucket)
    keys = [each.key for each in store.keys(store.key("nanobanana-budgets"))]
    assert len(keys) == 2
    assert keys == sorted(keys, key=lambda key: int(key.split("~")[1]))


def test_a_list_that_lacks_what_was_written_is_not_believed(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert join(60).extend(40, ahead=0, spent=0)
    monkeypatch.setattr(ObjectStore, "keys", lambda *_: iter(()))
    two = join(60)
    with pytest.raises(StorageError, match="does not list what was written"):
        two.extend(40, ahead=0, spent=0)
    assert not two.covers(1)


@pytest.mark.parametrize("granted", [0, 2])
def test_a_write_whose_answer_is_lost_is_given_back(
    front: FaultyS3, store: ObjectStore, granted: int
) -> None:
    grants = Grants(store, _terms(100), "s3://b/one", UNKNOWN)
    if granted:
        assert grants.extend(granted, ahead=0, spent=0)
    front.lose_answer = lambda seen: seen.method == "PUT"
    with pytest.raises(StorageError):
        grants.extend(80, ahead=0, spent=granted)
    front.lose_answer = lambda _: False
    grants.close(granted)
    assert Grants(store, _terms(100), "s3://b/two", UNKNOWN).room() == 100 - granted


def test_what_a_dead_process_has_spent_is_looked_up_once(join: Join) -> None:
    for settled in (50, None):
        asked = list[str]()

        def settle(
            _: str, process: str, settled: int | None = settled, asked: Any = asked
        ) -> int | None:
            asked.append(process)
            return settled

        dead = join(50, batch="s3://b/dead")
        with TIMES.use(replace(TIMES.get(), dead=-1.0, room=0.0, again=0.0)):
            if not dead.extend(50, ahead=0, spent=0):
                continue  # of the round before
            other = join(50, batch="s3://b/other", settle=settle)
            for _ in range(5):
                assert not other.extend(1, ahead=0, spent=0)
        assert len(asked) <= 1


def test_names_that_a_key_cannot_hold_have_books_of_their_own(bucket: S3Bucket) -> None:
    names = ["北京", "東京", "image", "a" * 60, "a" * 60 + "b", "Art Team", "art-team"]
    for name in names:
        terms = replace(_terms(10), name=name)
        assert Grants(ObjectStore(bucket), terms, "s3://b/one", UNKNOWN).extend(10, ahead=0, spent=0)


def test_what_is_under_way_when_a_period_ends_counts_where_it_was_sent(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, and sent again in the next one, it counts there."""
    grants = join(30, kind="day")
    budget = Budget(None, Prices({"nano-banana": MODEL}), grants=grants, prompts=30)
    request = ImageRequest(prompt="x")
    for n in range(10):
        assert budget.reserve(n, request) is None
        assert budget.confirm(n, request) is None
    yesterday = Period("2026-01-01", datetime.now(UTC) - timedelta(seconds=9))
    monkeypatch.setattr(grants, "_period", yesterday)
    assert budget.reserve(10, request) is None
    assert budget.confirm(10, request) is None
    for n in range(5):
        budget.settle(n, 1)
    for n in range(5, 10):
        budget.suspend(n)
        assert budget.confirm(n, request) is None
        budget.settle(n, 1)
    budget.settle(10, 1)
    budget.close()
    assert join(30, kind="day").room() == 30 - 6


def test_books_that_fail_are_tried_once_for_all_who_wait(front: FaultyS3, store: ObjectStore) -> None:
    front.fault = _denying("PUT")
    grants = Grants(store, _terms(100), "s3://b/one", UNKNOWN)
    budget = Budget(None, Prices({"nano-banana": MODEL}), grants=grants, prompts=40)

    def reserve(n: int) -> None:
        with pytest.raises(StorageError):
            budget.reserve(n, ImageRequest(prompt="x"))

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(reserve, range(40)))
    assert len(front.seen) <= 2
