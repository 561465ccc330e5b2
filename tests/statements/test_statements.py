"""What an account has spent over many runs: statements in S3, the artifact and its chart."""

from __future__ import annotations

import json
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect_aws import S3Bucket
from pydantic import SecretStr
from servers import FaultyS3, Seen, s3_error

from prefect_nanobanana import (
    ImagePrompt,
    NanoBananaCredentials,
    NanoBananaGenerator,
    RunFailed,
    RunReport,
)
from prefect_nanobanana.batch import Ledger, recorded_outcomes
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.flows import copy_pending, generate_images
from prefect_nanobanana.models import Caller, Charge
from prefect_nanobanana.report._chart import chart, days_until
from prefect_nanobanana.report._credits_page import DAYS, AccountCredits, credits_page
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox
from prefect_nanobanana.statements import StatementRow, Statements
from prefect_nanobanana.statements._rows import rows_of

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]
ACCOUNT = "0123456789ab"


def today() -> date:
    return datetime.now(UTC).date()


def rows(bucket: S3Bucket, credentials: NanoBananaCredentials) -> list[StatementRow]:
    return Statements(ObjectStore(bucket), credentials.account).rows(today() - timedelta(days=2))


def page(credentials: NanoBananaCredentials, bucket: S3Bucket) -> str:
    place = AccountCredits(credentials.account, _place(bucket), today(), [], None)
    key = ArtifactFilterKey(any_=[place.key])
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=key), sort=ArtifactSort.CREATED_DESC
        )
    return str(found[0].data) if found else ""


def _place(bucket: S3Bucket) -> str:
    store = ObjectStore(bucket)
    return store.uri(store.key()).rstrip("/")


def total(found: list[StatementRow]) -> Any:
    return sum(row.credits for row in found)


def charge(**changes: Any) -> Charge:
    fields = {
        "asked_at": datetime.now(UTC),
        "caller": Caller("generate_images", ACCOUNT),
        "asked_by": None,
        "attempt": None,
        "estimated": False,
        "model": "nano-banana",
        "status": "stored",
        "credits": 1,
        "at_risk": 0,
        "images": 1,
        "quantity": 1,
    }
    return Charge(**{**fields, **changes})


def test_each_run_is_counted_once_by_day_flow_model_and_end(
    run: Run, sandbox: Sandbox, bucket: S3Bucket, credentials: NanoBananaCredentials
) -> None:
    sandbox.faults.queue(None, "warning")
    first = run("a", "b", fail_on="never")
    run("a", "b", "c")  # what the first has paid is not counted again
    other = run(ImagePrompt(prompt="d", model="nanobanan-2"), batch="other")
    found = rows(bucket, credentials)
    assert total(found) == sandbox.account.charged
    assert {(row.day, row.flow) for row in found} == {(today(), "generate_images")}
    by_end = {(row.model, row.status): (row.requests, row.images) for row in found if row.requests == 1}
    assert by_end == {("nano-banana", "warning"): (1, 0), ("nanobanan-2", "stored"): (1, 1)}
    assert sum(row.without_image for row in found) == first.credits_without_image
    text = page(credentials, bucket)
    assert f"**{sandbox.account.charged} credits in 31 days, 3 pictures" in text
    assert f"Balance: {other.balance_after} credits." in text
    assert "| refused by the safety check | 1 |" in text
    assert "data:image/svg+xml;base64," in text


def test_what_was_asked_again_counts_each_time(
    run: Run, sandbox: Sandbox, bucket: S3Bucket, credentials: NanoBananaCredentials
) -> None:
    sandbox.faults.queue("warning", "warning")
    run("a", fail_on="never")
    run("a", ask_again=["warnings"], fail_on="never")
    run("a", ask_again=["warnings"])
    found = rows(bucket, credentials)
    assert total(found) == sandbox.account.charged
    assert {row.status: row.requests for row in found} == {"warning": 2, "stored": 1}


def test_the_outermost_flow_is_named(
    generator: NanoBananaGenerator, bucket: S3Bucket, credentials: NanoBananaCredentials
) -> None:
    @flow(name="catalogue | b")
    def outer() -> None:
        generate_images(prompts=["a"], generator=generator, bucket=bucket, batch="b")

    outer()
    assert [row.flow for row in rows(bucket, credentials)] == ["catalogue | b"]
    assert "| catalogue &#124; b | 1 |" in page(credentials, bucket)


def test_what_a_killed_run_has_spent_is_counted_by_the_next_copy_pending(
    run: Run,
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    bucket: S3Bucket,
    credentials: NanoBananaCredentials,
) -> None:
    run("a", "b")
    store = ObjectStore(bucket)
    for written in store.keys(store.key("nanobanana-credits")):
        store.remove(written.key)  # as if the run had been killed before it could write it
    run("c", batch="other")
    assert total(rows(bucket, credentials)) == 1
    copy_pending(generator=generator, bucket=bucket)
    assert total(rows(bucket, credentials)) == sandbox.account.charged == 3
    assert "**3 credits in 31 days" in page(credentials, bucket)


def test_what_may_have_been_paid_is_told_apart(
    run: Run, sandbox: Sandbox, bucket: S3Bucket, credentials: NanoBananaCredentials
) -> None:
    sandbox.faults.queue("reset_after")
    report = run("a")
    assert report.unknown == 1
    (row,) = rows(bucket, credentials)
    assert (row.status, row.credits, row.at_risk) == ("unknown", 0, report.credits_at_risk)
    assert "| no answer | 1 | 0 | 0 |  | 0 | 1 |" in page(credentials, bucket)


def test_accounts_are_told_apart(
    run: Run, sandbox: Sandbox, bucket: S3Bucket, credentials: NanoBananaCredentials
) -> None:
    """One batch that two accounts have paid for: each has its part."""
    run("a")
    other = NanoBananaCredentials(
        api_key=SecretStr(sandbox.api_key),
        base_url=credentials.base_url.replace("127.0.0.1", "localhost"),
    )
    assert other.account != credentials.account
    run("a", "b", "c", generator=NanoBananaGenerator(credentials=other))
    assert total(rows(bucket, credentials)) == 1
    assert total(rows(bucket, other)) == 2


def test_only_what_has_changed_is_read(make_bucket: Callable[..., S3Bucket], bucket: S3Bucket) -> None:
    endpoint = bucket.credentials.aws_client_parameters.endpoint_url
    seen: list[tuple[str, str]] = []

    def count(request: Seen) -> None:
        if "list-type" not in request.path:
            seen.append((request.method, request.path.partition("?")[0].rpartition("/")[2]))

    with FaultyS3(str(endpoint)) as front:
        front.fault = count
        store = ObjectStore(make_bucket(endpoint_url=front.url))
        for n in range(30):
            Statements(store, ACCOUNT).write(f"batch {n}", [charge()])
        first = Statements(store, ACCOUNT).rows(today())
        seen.clear()
        late = Statements(store, ACCOUNT)
        late.write("batch 3", [charge(), charge()])
        again = late.rows(today())
    assert (total(first), total(again)) == (30, 31)
    # Its own, what all others are in, and that once more with its own.
    assert [method for method, _ in seen] == ["PUT", "GET", "PUT"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"statements": 3}', "[" * 100_000])
def test_what_is_damaged_is_made_anew(
    damage: str, bucket: S3Bucket, folder: Path, credentials: NanoBananaCredentials, run: Run
) -> None:
    run("a")
    run("b", batch="other")
    at = folder / "nanobanana-credits"
    (at / f"{credentials.account}.json").write_text(damage)
    assert total(rows(bucket, credentials)) == 2
    next((at / credentials.account).glob("other-*")).write_text(damage)
    assert total(rows(bucket, credentials)) == 1
    run("b", batch="other")
    assert total(rows(bucket, credentials)) == 2


def test_a_record_cannot_have_a_statement_written_elsewhere(bucket: S3Bucket, folder: Path) -> None:
    its = Statements(ObjectStore(bucket), ACCOUNT)
    its.write("b", [charge(caller=Caller("f", "../../b/records"))])
    assert total(its.rows(today())) == 1
    assert [path.name for path in folder.iterdir()] == ["nanobanana-credits"]


def test_a_store_that_refuses_it_keeps_no_run_from_ending(
    make_bucket: Callable[..., S3Bucket], bucket: S3Bucket, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = bucket.credentials.aws_client_parameters.endpoint_url
    with FaultyS3(str(endpoint)) as front:
        front.fault = lambda seen: (
            s3_error(403, "AccessDenied") if "nanobanana-credits" in seen.path else None
        )
        report = run("a", bucket=make_bucket(endpoint_url=front.url))
    assert report.unpublished == ("artifact nanobanana-credits",)
    assert report.stored == 1
    assert "artifact nanobanana-credits could not be published" in caplog.text


def test_the_budget_is_on_the_page(
    run: Run, bucket: S3Bucket, credentials: NanoBananaCredentials
) -> None:
    budget = NanoBananaBudget(credits=5, period="day", bucket=bucket, name="pictures")
    run("a", "b", budget=budget)
    assert "Budget: &#39;pictures&#39; has 3 of 5 credits left this day." in page(credentials, bucket)


def test_records_of_earlier_versions_count_as_of_no_flow(
    bucket: S3Bucket, folder: Path, credentials: NanoBananaCredentials, run: Run
) -> None:
    sandbox_rows = _with_old_records(bucket, folder, run)
    assert {row.flow for row in rows(bucket, credentials)} == {"", "generate_images"}
    assert total(rows(bucket, credentials)) == sandbox_rows
    assert "| not recorded |" in page(credentials, bucket)


def _with_old_records(bucket: S3Bucket, folder: Path, run: Run) -> int:
    """Have a batch whose records know no flow, and of earlier requests only what they cost."""
    run("a")
    (path,) = (folder / "b" / "records").glob("*.json")
    text = re.sub(r'\n "caller": \{[^}]*\},', "", path.read_text())
    path.write_text(text.replace('"credits_before": 0', '"credits_before": 2'))
    run("b")
    return 1 + 2 + 1


@pytest.mark.parametrize("seed", range(4))
def test_random_runs_add_up(
    seed: int, run: Run, sandbox: Sandbox, bucket: S3Bucket, credentials: NanoBananaCredentials
) -> None:
    """All credits that the account has lost are in the statements, whatever became of requests."""
    rng = random.Random(seed)
    models = ["nano-banana", "nanobanan-2"]
    without: Any = 0
    for _ in range(6):
        sandbox.faults.queue(*rng.choices([None, "warning", "failed", "500"], (5, 2, 1, 1), k=4))
        prompts = [
            ImagePrompt(
                prompt=f"p{rng.randrange(6)}", name=f"n{n}", model=rng.choice(models), quantity=2
            )
            for n in rng.sample(range(8), 4)
        ]
        again = rng.choice([[], ["warnings"], ["failed", "warnings"]])
        report = run(*prompts, batch=rng.choice("xy"), ask_again=again, fail_on="never")
        without += report.credits_without_image
    found = rows(bucket, credentials)
    assert total(found) <= sandbox.account.charged
    assert total(found) + sum(row.at_risk for row in found) >= sandbox.account.charged
    assert sum(row.without_image for row in found) == without


def test_rows_add_up_what_is_alike() -> None:
    day = datetime(2026, 11, 27, 23, 30, tzinfo=UTC)
    found = rows_of(
        [
            charge(asked_at=day, credits=3, images=2, quantity=3),
            charge(asked_at=day, credits=2, images=1),
            charge(asked_at=None, credits=9),
            charge(asked_at=day, status="warning", images=0),
        ]
    )
    assert [(r.status, r.requests, r.credits, r.images, r.without_image) for r in found] == [
        ("stored", 2, 5, 3, 1),
        ("warning", 1, 1, 0, 1),
    ]


def test_the_chart_shows_each_day_to_scale() -> None:
    days = days_until(date(2026, 11, 27), DAYS)
    made = rows_of(
        [
            charge(asked_at=datetime(2026, 11, 27, tzinfo=UTC), credits=30),
            charge(asked_at=datetime(2026, 11, 26, tzinfo=UTC), credits=60, quantity=2),
        ]
    )
    svg = ET.fromstring(chart(made, days))
    space = "{http://www.w3.org/2000/svg}"
    bars = svg.findall(f"{space}g")
    assert len(bars) == DAYS
    heights = [[float(part.get("height", 0)) for part in bar.findall(f"{space}rect")] for bar in bars]
    assert heights[:-2] == [[]] * (DAYS - 2)
    assert [round(h / heights[-1][0], 2) for h in heights[-2]] == [1.0, 1.0]
    assert bars[-2].findtext(f"{space}title") == (
        "2026-11-26: 60 credits (30 became pictures, 30 bought nothing)"
    )


def _luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("background", ["#ffffff", "#eaeaea", "#0f1115"])
def test_the_chart_can_be_read_on_light_and_dark(background: str) -> None:
    """WCAG 2.2, 1.4.11: at least 3 for what graphics consist of. Prefect's own light pages are grey."""
    svg = chart([], days_until(today(), DAYS))
    for colour in set(re.findall("#[0-9a-f]{6}", svg)):
        lighter, darker = sorted((_luminance(colour), _luminance(background)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3, colour


def test_a_page_of_very_many_flows_is_bounded() -> None:
    made = rows_of([charge(caller=Caller(f"flow {n}")) for n in range(5_000)])
    text = credits_page(AccountCredits(ACCOUNT, "s3://b/f", today(), made, 1))
    assert "| and 4800 more |" in text
    assert len(text) < 100_000


def test_the_record_knows_whom_it_was_sent_for(
    run: Run, bucket: S3Bucket, credentials: NanoBananaCredentials
) -> None:
    run("a")
    (record,) = Ledger(ObjectStore(bucket), "b").read_others(()).values()
    assert record.caller == Caller("generate_images", credentials.account, record.asked_by)
    assert record.price == 1


def test_a_record_of_requests_that_nobody_noted_is_read_again(
    run: Run, bucket: S3Bucket, sandbox: Sandbox
) -> None:
    """What is not known is left out of records."""
    sandbox.faults.queue("warning")
    run("a", fail_on="never")
    ledger = Ledger(ObjectStore(bucket), "b")
    (record,) = ledger.read_others(()).values()
    ledger.write_once(record.model_copy(update={"caller": None, "asked_at": None, "credits_before": 4}))
    assert run("a", ask_again=["warnings"]).stored == 1
    assert run("a").stored == 1
    (record,) = ledger.read_others(()).values()
    assert [(c.status, c.credits) for c in record.earlier or ()] == [("earlier", 4), ("warning", 1)]


def test_a_record_that_cannot_be_read_takes_nothing_from_the_statement(
    run: Run, bucket: S3Bucket, folder: Path, sandbox: Sandbox, credentials: NanoBananaCredentials
) -> None:
    run("a")
    (path,) = (folder / "b" / "records").glob("*.json")
    text = path.read_text()
    path.write_text("{")
    run("c")
    assert total(rows(bucket, credentials)) == 1, "what is written stays"
    path.write_text(text)
    run("c")
    assert total(rows(bucket, credentials)) == sandbox.account.charged == 2


def test_a_long_run_does_not_overwrite_what_a_shorter_one_has_written(
    run: Run,
    bucket: S3Bucket,
    sandbox: Sandbox,
    credentials: NanoBananaCredentials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it works, another run asks again for what it has done already."""
    sandbox.faults.queue("warning")
    begun = list[bool]()

    def let_the_other_run(*arguments: Any, **settings: Any) -> Any:
        if not begun:
            begun.append(True)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(run, "a", ask_again=["warnings"]).result()
            assert total(rows(bucket, credentials)) == 2
        return recorded_outcomes(*arguments, **settings)

    monkeypatch.setattr("prefect_nanobanana.flows._work.recorded_outcomes", let_the_other_run)
    run("a", fail_on="never")
    assert total(rows(bucket, credentials)) == sandbox.account.charged == 2


def test_a_batch_is_counted_once_however_its_name_is_listed(bucket: S3Bucket) -> None:
    """Stores on a Mac's disk list it decomposed."""
    its = Statements(ObjectStore(bucket), ACCOUNT)
    for form in ("NFC", "NFD"):
        its.write(normalize(form, "caf\u00e9"), [charge()])
    assert total(its.rows(today())) == 1


@pytest.mark.parametrize(
    "at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2026-11-27T12:00:00"]
)
def test_a_record_with_an_odd_date_stops_nothing(
    at: str,
    run: Run,
    generator: NanoBananaGenerator,
    bucket: S3Bucket,
    folder: Path,
    credentials: NanoBananaCredentials,
) -> None:
    run("a")
    (path,) = (folder / "b" / "records").glob("*.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "asked_at": at}))
    assert run("a", "b").unpublished == ()
    run("q", batch="other")
    copy_pending(generator=generator, bucket=bucket)
    assert total(rows(bucket, credentials)) >= 2


@pytest.mark.parametrize(
    ("field", "value"),
    [("images", 10**400), ("requests", -1), ("credits", -100), ("day", "x"), ("status", "gold")],
)
def test_a_statement_that_cannot_be_is_left_out(
    field: str, value: Any, run: Run, bucket: S3Bucket, credentials: NanoBananaCredentials
) -> None:
    run("a")
    store = ObjectStore(bucket)
    folder = store.key("nanobanana-credits", credentials.account)
    (listed,) = store.keys(folder + "/")
    found = store.find(listed.key)
    assert found is not None
    statement = json.loads(found[0])
    statement["rows"][0][field] = value
    store.put(f"{folder}/odd-0.json", json.dumps(statement).encode(), "application/json")
    assert run("b").unpublished == ()
    assert total(rows(bucket, credentials)) == 2


def test_batches_that_cost_this_account_nothing_are_not_read_again_and_again(
    run: Run, generator: NanoBananaGenerator, bucket: S3Bucket, credentials: NanoBananaCredentials
) -> None:
    run("a", max_credits=0)
    copy_pending(generator=generator, bucket=bucket)
    newest = {"b": datetime.now(UTC) - timedelta(seconds=5)}
    assert Statements(ObjectStore(bucket), credentials.account).behind(newest) == []


def test_what_is_asked_for_less_does_not_forget_the_rest(bucket: S3Bucket) -> None:
    now, store = datetime.now(UTC), ObjectStore(bucket)
    Statements(store, ACCOUNT).write("b", [charge(asked_at=now - timedelta(days=5)), charge()])
    assert total(Statements(store, ACCOUNT).rows(now.date())) == 1
    assert total(Statements(store, ACCOUNT).rows((now - timedelta(days=30)).date())) == 2


def test_what_may_have_been_paid_is_at_the_price_that_is_known(
    run: Run,
    bucket: S3Bucket,
    sandbox: Sandbox,
    credentials: NanoBananaCredentials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer has told 3 where 1 is listed."""
    monkeypatch.setattr(sandbox.account, "cost", lambda *_: 3)
    sandbox.faults.queue(None, "reset_after")
    report = run("a", "b")
    assert report.credits_at_risk == sum(row.at_risk for row in rows(bucket, credentials)) == 3


def test_a_run_that_turns_red_is_counted(
    generator: NanoBananaGenerator,
    sandbox: Sandbox,
    bucket: S3Bucket,
    credentials: NanoBananaCredentials,
) -> None:
    sandbox.faults.queue("warning")
    with pytest.raises(RunFailed):
        generate_images(prompts=["a"], generator=generator, bucket=bucket, batch="b", fail_on="warning")
    assert total(rows(bucket, credentials)) == sandbox.account.charged == 1
