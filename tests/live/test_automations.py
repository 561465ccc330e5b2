"""Automations tell people: each fires on a real server, and a real receiver gets what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from deployed import DEPLOYMENTS, Deployed
from prefect.events import Event, Resource
from servers import Reply, Scripted

from prefect_nanobanana.sandbox import Sandbox

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
Wait = Callable[..., None]
NAMES = [
    "Nano Banana: a run failed",
    "Nano Banana: a run waits for approval",
    "Nano Banana: credits are low",
    "Nano Banana: many warnings",
]


@pytest.fixture(scope="module")
def receiver(server: Deployed) -> Iterator[Scripted]:
    """What the webhook block leads to."""
    with Scripted(lambda _: Reply(status=204)) as receiver:
        _script(server, "blocks.py", "--webhook-url", f"{receiver.url}/hook")
        yield receiver


@pytest.fixture
def received(receiver: Scripted) -> Scripted:
    receiver.seen.clear()
    return receiver


@pytest.fixture
def told(received: Scripted, wait_for: Wait) -> Callable[[str], dict[str, Any]]:
    """Waits for what an automation sends; there must be one such message only."""

    def wait(automation: str) -> dict[str, Any]:
        def bodies() -> list[dict[str, Any]]:
            found = [json.loads(seen.body) for seen in received.seen]
            return [body for body in found if body["automation"] == automation]

        wait_for(lambda: bodies(), 120)
        (body,) = bodies()
        return body

    return wait


@pytest.fixture
def automations(server: Deployed, received: Scripted) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Makes them, as people do; they send to the receiver of this test."""

    def make(*arguments: str) -> list[dict[str, Any]]:
        _script(server, "automations.py", *(arguments or ("--webhook", "nanobanana")))
        return _all(server)

    yield make
    for row in _all(server):
        server.delete(f"automations/{row['id']}")


def _script(server: Deployed, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(DEPLOYMENTS / name), *arguments],
        env={**os.environ, **server.env},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done


def _all(server: Deployed) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = server.post("automations/filter", {})
    return sorted(rows, key=lambda row: str(row["name"]))


def _emit(server: Deployed, *events: tuple[str, str, dict[str, Any]]) -> None:
    sent = [
        Event(event=event, resource=Resource({"prefect.resource.id": id_}), payload=payload)
        for event, id_, payload in events
    ]
    server.post("events", [event.model_dump(mode="json") for event in sent])


def _refused(prompt: str, position: int = 1) -> tuple[str, str, dict[str, Any]]:
    payload = {"batch": "b", "position": position, "prompt": prompt, "status": "warning"}
    return "nanobanana.image.warning", "nanobanana.batch.b", payload


def test_credits_are_low(
    server: Deployed, automations: Callable[..., Any], told: Any, received: Scripted
) -> None:
    automations()
    payload = {"remaining_credits": 7, "low_credits": 20, "batch": 'the "b"'}
    low = ("nanobanana.credits.low", "nanobanana.account.0123456789ab", payload)
    _emit(server, low)
    body = told("Nano Banana: credits are low")
    assert body["text"].startswith(
        'The Nano Banana account has 7 credits left, fewer than 20, after batch the "b".'
    )
    assert (body["event"], body["payload"]) == (low[0], payload)
    assert received.seen[0].headers["content-type"] == "application/json"
    # Every run after it finds the same: that is told once. Another account is another matter.
    _emit(server, low, ("nanobanana.credits.low", "nanobanana.account.ba9876543210", payload))
    _until(received, 2)
    _emit(server, *[low] * 3, *[_refused("x")] * 10)
    _until(received, 3)
    assert told("Nano Banana: many warnings")


def _until(received: Scripted, count: int) -> None:
    end = time.monotonic() + 120
    while len(received.seen) < count:
        assert time.monotonic() < end, f"{len(received.seen)} messages, not {count}"
        time.sleep(0.1)
    assert len(received.seen) == count, [seen.body for seen in received.seen]


def test_many_warnings(
    server: Deployed, automations: Callable[..., Any], told: Any, received: Scripted
) -> None:
    """One is part of the business; prompts may hold whatever people write."""
    automations("--webhook", "nanobanana", "--warnings", "3", "--minutes", "30")
    odd = _refused('{{ 7 * 7 }} "quoted"\n</script> ünï', position=9)
    low = ("nanobanana.credits.low", "nanobanana.account.a", {"remaining_credits": 1})
    # Prefect's server takes two events at a time, so any of the three may be the one that it tells of.
    _emit(server, odd, odd, low)
    told("Nano Banana: credits are low")
    assert len(received.seen) == 1
    _emit(server, odd)
    body = told("Nano Banana: many warnings")
    assert body["text"] == (
        "The safety check refused 3 prompts within 30 minutes; each cost credits and yielded no image. "
        'One of them was prompt 9 of batch b: {{ 7 * 7 }} "quoted"\n</script> ünï'
    )


def test_from_a_run(
    server: Deployed,
    deployed: object,
    worker: object,
    automations: Callable[..., Any],
    told: Any,
    received: Scripted,
    sandbox: Sandbox,
    wait_for: Wait,
) -> None:
    """The events as a worker's run sends them: three refused prompts, and few credits left."""
    automations("--webhook", "nanobanana", "--warnings", "3")
    sandbox.account.credits = 22
    refused = ["a bloody sword", "gore", "a naked ape", "a dog"]
    run = server.create_run("prompt-list", prompts=refused, batch="refused")
    wait_for(lambda: server.ended(run), 240)
    low, many = told("Nano Banana: credits are low"), told("Nano Banana: many warnings")
    assert server.run(run)["state"]["message"] == "1 stored, 3 warnings; 4 credits used, 18 left"
    assert low["payload"]["remaining_credits"] == 18
    assert "has 18 credits left, fewer than 20, after batch refused." in low["text"]
    assert "of batch refused: " in many["text"]
    assert many["payload"]["prompt"] in refused
    assert len(received.seen) == 2


def test_a_run_failed(
    server: Deployed,
    deployed: object,
    worker: object,
    automations: Callable[..., Any],
    received: Scripted,
    sandbox: Sandbox,
    wait_for: Wait,
) -> None:
    """The daily run has one inside, which fails with it: that is one failure, and told once."""
    automations()
    sandbox.faults.queue("400", "400")
    daily = server.create_run("daily", prompts=["x", "y"], day="2026-11-23")
    wait_for(lambda: server.ended(daily), 240)
    _until(received, 1)
    # One that cannot even start: its list is not there.
    broken = server.create_run("prompt-list", prompts_from="/no/such/file.txt")
    good = server.create_run("prompt-list", prompts=["a cat"])
    wait_for(lambda: server.ended(broken, good), 240)
    _until(received, 2)
    bodies = [json.loads(seen.body) for seen in received.seen]
    assert {body["automation"] for body in bodies} == {"Nano Banana: a run failed"}
    texts = [body["text"] for body in bodies]
    flows = ("daily_images", "generate_images")
    for flow, id_, text in zip(flows, (daily, broken), texts, strict=True):
        run = server.run(id_)
        why = run["state"]["message"][:60]
        assert text.startswith(f"{flow} run {run['name']} ended as Failed: {why}")
        assert text.endswith(f"/runs/flow-run/{id_}")
    assert "2 failed" in texts[0]


def test_a_run_waits_for_approval(
    server: Deployed,
    deployed: object,
    worker: object,
    automations: Callable[..., Any],
    told: Callable[[str], dict[str, Any]],
    sandbox: Sandbox,
    wait_for: Wait,
) -> None:
    automations()
    waiting = server.create_run("prompt-list", prompts=["x"], approve_above=0)
    text = told("Nano Banana: a run waits for approval")["text"]
    assert text.startswith(f"generate_images run {server.run(waiting)['name']} would cost more")
    assert text.endswith(f"/runs/flow-run/{waiting}")
    answer = {"run_input": {"decision": "refuse", "up_to_credits": 0}}
    wait_for(lambda: server.post(f"flow_runs/{waiting}/resume", answer)["status"] == "ACCEPT", 60)
    wait_for(lambda: server.ended(waiting), 240)
    assert sandbox.account.posts == 0


def test_made_again_they_are_brought_up_to_date(
    server: Deployed, automations: Callable[..., Any], received: Scripted
) -> None:
    first = automations()
    assert [row["name"] for row in first] == NAMES
    server.patch(f"automations/{first[3]['id']}", {"enabled": False})
    again = automations("--webhook", "nanobanana", "--warnings", "4")
    assert [row["id"] for row in again] == [row["id"] for row in first]
    assert [row["enabled"] for row in again] == [True, True, True, False]
    assert again[3]["trigger"]["threshold"] == 4


def test_through_a_notification_block(
    server: Deployed, automations: Callable[..., Any], received: Scripted
) -> None:
    server.python(
        "from prefect.blocks.notifications import CustomWebhookNotificationBlock as Block\n"
        f"Block(name='x', url='{received.url}/notify', "
        "json_data={'title': '{{subject}}', 'text': '{{body}}'}).save('team')"
    )
    automations("--notify", "custom-webhook/team")
    payload = {"remaining_credits": 7, "low_credits": 20, "batch": "b"}
    _emit(server, ("nanobanana.credits.low", "nanobanana.account.other", payload))
    _until(received, 1)
    body = json.loads(received.seen[0].body)
    assert body["title"] == "Nano Banana: credits are low"
    assert body["text"].startswith("The Nano Banana account has 7 credits left, fewer than 20")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--webhook", "no-such"], "there is no such block: no-such"),
        (["--notify", "team"], "as slack-webhook/team"),
        (["--notify", "webhook/nanobanana"], "is no notification block"),
    ],
)
def test_a_block_that_cannot_tell(
    server: Deployed, received: Scripted, arguments: list[str], said: str
) -> None:
    with pytest.raises(AssertionError, match=said):
        _script(server, "automations.py", *arguments)
