"""A batch in parts: what is in which part, what each may spend, and one report of it all.

Parts run here as flows in threads of this process; tests/live/test_parts.py has work pools and kills.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from divided import Divided
from flow_checks import adds_up
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Running
from prefect_aws import S3Bucket

from prefect_nanobanana import InvalidInput, NanoBananaGenerator, RunReport
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.flows import generate_in_parts, generate_part
from prefect_nanobanana.flows._part_runs import PART_TIMES, PartTimes
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_server")
PROMPTS = [*(f"p{n}" for n in range(10)), "twice", "twice"]


@pytest.fixture
def divided(generator: NanoBananaGenerator, bucket: S3Bucket) -> Divided:
    return Divided(generator, bucket)


def _keys(bucket: S3Bucket) -> set[str]:
    return {key for key, *_ in ObjectStore(bucket).keys(f"{bucket.bucket_folder}/b/records/")}


def test_parts_ask_for_everything_once_under_the_keys_of_an_undivided_run(
    divided: Divided, run: Callable[..., RunReport], sandbox: Sandbox, bucket: S3Bucket, folder: Any
) -> None:
    report = divided.run(*PROMPTS)
    assert [part.number for part in divided.parts] == [1, 2, 3]
    assert sorted(m.partition(";")[0] for m in divided.messages) == ["Completed: 4 stored"] * 3
    assert (report.stored, report.credits_used, report.credits_reused) == (12, 12, 0)
    assert report.credits_unexplained == 0
    assert (sandbox.account.posts, sandbox.account.charged) == (12, 12)
    adds_up(report, sandbox, folder)
    keys = _keys(bucket)
    assert len(keys) == 12
    again = run(*PROMPTS)
    assert (again.stored, again.credits_used, again.credits_reused) == (12, 0, 12)
    assert (_keys(bucket), sandbox.account.posts) == (keys, 12)


def test_what_is_done_is_not_divided_again(divided: Divided, run: Any, sandbox: Sandbox) -> None:
    run(*PROMPTS)
    report = divided.run(*PROMPTS)
    assert divided.parts == []
    assert (report.stored, report.credits_used, report.credits_reused) == (12, 0, 12)
    assert report.credits_unexplained == 0
    # Records and all else of the list's other parts stay as they are.
    report = divided.run(*PROMPTS, "new")
    assert len(divided.parts) == 1
    assert (report.credits_used, report.credits_reused, sandbox.account.posts) == (1, 12, 13)


@pytest.mark.parametrize("leave_out", [(2,), (1, 2, 3)])
def test_what_parts_leave_is_asked_for_at_the_end(
    divided: Divided, sandbox: Sandbox, folder: Any, leave_out: Any
) -> None:
    divided.leave_out = leave_out
    report = divided.run(*PROMPTS, max_credits=12)
    assert (report.stored, report.credits_used) == (12, 12)
    adds_up(report, sandbox, folder)


def test_warnings_failures_and_the_unknown_are_one_call_s(divided: Divided, sandbox: Sandbox) -> None:
    """Whatever part they are of: the books of the whole agree with the account's."""
    sandbox.faults.queue(None, "failed", None, "reset_after", "warning")
    report = divided.run(*PROMPTS, "one more")
    assert (report.stored, report.warnings, report.failed, report.unknown) == (10, 1, 1, 1)
    assert report.credits_used + report.credits_at_risk >= sandbox.account.charged
    assert sandbox.account.posts == 13
    again = divided.run(*PROMPTS, "one more", ask_again=["warnings", "failed", "unknown"])
    assert (again.stored, sandbox.account.posts) == (13, 16)


def _really_costs(sandbox: Sandbox, times: int) -> None:
    listed = sandbox.account.cost
    sandbox.account.cost = lambda *asked: times * listed(*asked)  # type: ignore[method-assign]


@pytest.mark.parametrize("times", [1, 9])
@pytest.mark.parametrize(("ceiling", "parts"), [(20, 3), (20, 12), (3, 5)])
def test_a_ceiling_holds_over_all_parts(
    divided: Divided, sandbox: Sandbox, times: int, ceiling: int, parts: int
) -> None:
    """Whatever the catalogue says: no answer has told any part the price before."""
    sandbox.account.limit = divided.generator.credentials.max_concurrent_requests = 8
    sandbox.latency = (0.05, 0.1)
    _really_costs(sandbox, times)
    report = divided.run(*(f"p{n}" for n in range(12)), parts=parts, max_credits=ceiling)
    assert sandbox.account.charged == report.credits_used
    if times <= ceiling:
        assert report.credits_used <= ceiling
        assert report.credits_used == min(12 * times, ceiling - ceiling % times), (
            "what fits is asked for"
        )
    assert report.stored + report.skipped == 12


@pytest.mark.parametrize("credits", [0, 7, 50])
def test_parts_share_a_budget_with_all_others(
    divided: Divided, bucket: S3Bucket, sandbox: Sandbox, credits: int
) -> None:
    sandbox.account.limit = divided.generator.credentials.max_concurrent_requests = 4
    divided.budget = NanoBananaBudget(credits=credits, bucket=bucket)
    report = divided.run(*(f"p{n}" for n in range(12)))
    assert report.stored == sandbox.account.charged == min(12, credits)
    assert report.stored + report.skipped == 12
    assert divided.budget.left() == credits - sandbox.account.charged


def test_a_ceiling_holds_though_no_answer_tells_the_price(divided: Divided, sandbox: Sandbox) -> None:
    """Each part would find out by itself that one image costs nearly all."""
    sandbox.account.limit = divided.generator.credentials.max_concurrent_requests = 8
    _really_costs(sandbox, 9)
    prompts = [*(f"nude {n}" for n in range(3)), *(f"p{n}" for n in range(9))]
    report = divided.run(*prompts, max_credits=40)
    assert divided.parts == []
    assert sandbox.account.charged == report.credits_used <= 40


@pytest.mark.parametrize("change", ["prompts", "bucket", "generator", "order"])
def test_a_part_of_another_list_asks_for_nothing(
    divided: Divided, sandbox: Sandbox, make_bucket: Any, change: str
) -> None:
    divided.leave_out = (1, 2, 3)
    sandbox.faults.queue(*["402"] * 12)
    divided.run(*PROMPTS)
    posts, part = sandbox.account.posts, divided.parts[0]
    prompts = list(PROMPTS)
    if change == "prompts":
        prompts[3] = "another"
    elif change == "order":
        prompts = prompts[::-1]
    elif change == "bucket":
        divided.bucket = make_bucket()
    else:
        divided.generator = divided.generator.model_copy(update={"aspect_ratio": "16:9"})
    state = divided.part(part, prompts)
    assert (state.type.value, state.name) == ("FAILED", "Refused")
    assert "asks for nothing" in state.message
    assert sandbox.account.posts == posts


# With Prefect's server: blocks, deployments, workers that do not come.


@pytest.fixture
def saved(generator: NanoBananaGenerator, bucket: S3Bucket) -> dict[str, Any]:
    generator.credentials.save("parts", overwrite=True)
    generator.save("parts", overwrite=True)
    bucket.credentials.save("parts", overwrite=True)
    bucket.save("parts", overwrite=True)
    return {"generator": generator, "bucket": bucket, "prompts": PROMPTS, "batch": "b"}


@pytest.mark.parametrize("unsaved", ["generator", "bucket"])
def test_a_block_that_is_not_saved_is_refused(
    saved: dict[str, Any], make_bucket: Any, sandbox: Sandbox, unsaved: str
) -> None:
    fresh = {
        "generator": NanoBananaGenerator(credentials=saved["generator"].credentials),
        "bucket": make_bucket(),
    }
    with pytest.raises(InvalidInput, match=f"{unsaved}: .* not saved"):
        generate_in_parts(**saved | {unsaved: fresh[unsaved]}, deployment="generate_part/none")
    with pytest.raises(InvalidInput, match="deployment: there is no 'generate_part/none'"):
        generate_in_parts(**saved, deployment="generate_part/none")
    with pytest.raises(InvalidInput, match="prompts_from"):
        generate_in_parts(**saved | {"prompts": ["x" * 840] * 600}, deployment="generate_part/none")
    assert sandbox.account.posts == 0


def test_a_dry_run_starts_no_part(saved: dict[str, Any], sandbox: Sandbox, folder: Any) -> None:
    report = generate_in_parts(**saved | {"batch": "dry"}, dry_run=True)
    assert (report.skipped, sandbox.account.posts) == (report.prompts, 0)
    assert not (folder / "dry").exists()


@pytest.fixture
def nobody(saved: dict[str, Any]) -> dict[str, Any]:
    """Parts are given to a work pool that has no worker."""
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name="nobody", type="process"))
    made = generate_part.to_deployment("nobody", work_pool_name="nobody")
    cast(RunnerDeployment, made).apply()
    return {**saved, "deployment": "generate_part/nobody", "start_within_seconds": 1}


QUICK = PartTimes(poll=0.3, say_after=0.1, heartbeats=0)


def _part_runs(name: str) -> list[FlowRun]:
    filter_ = FlowRunFilter.model_validate({"name": {"like_": name}})
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=filter_)


def test_parts_that_no_worker_takes_up_are_cancelled_and_done_here(
    nobody: dict[str, Any], sandbox: Sandbox, folder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with PART_TIMES.use(QUICK):
        report = generate_in_parts(**nobody | {"batch": "lonely"}, parts=3, max_credits=12)
    assert (report.stored, sandbox.account.charged) == (12, 12)
    adds_up(report, sandbox, folder)
    assert "waits for a worker" in caplog.text
    runs = _part_runs("lonely, part")
    assert [run.state_name for run in runs] == ["Cancelled"] * 3
    for run in runs:
        assert set(run.parameters["generator"]) == set(run.parameters["bucket"]) == {"$ref"}
        assert sandbox.api_key not in run.model_dump_json()


def test_parts_of_an_earlier_call_are_waited_for_and_the_dead_ones_buried(
    nobody: dict[str, Any], sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is said to run, of a machine that is gone, is not waited for without end."""
    with PART_TIMES.use(QUICK):
        generate_in_parts(**nobody | {"batch": "dead"}, parts=2)
        gone = _part_runs("dead, part")[0]
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(gone.id, Running(), force=True)
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):
            report = generate_in_parts(**nobody | {"batch": "dead"}, parts=2)
    assert (report.stored, report.credits_reused, sandbox.account.posts) == (12, 12, 12)
    assert "1 part of this batch" in caplog.text
    assert sorted(str(run.state_name) for run in _part_runs("dead, part")) == ["Cancelled", "Crashed"]
