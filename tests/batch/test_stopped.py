"""What a stopped run says, and for how long it waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefect_nanobanana import ImagePrompt, InvalidInput
from prefect_nanobanana.batch._record import Record, State
from prefect_nanobanana.batch._stopped import DEFAULT_GRACE_SECONDS, grace_seconds, what_is_left
from prefect_nanobanana.models import ImageRequest
from prefect_nanobanana.sandbox import Sandbox

NAME = "NANO_BANANA_GRACE_SECONDS"


def _record(state: State, generation_id: str | None = None) -> Record:
    request = ImageRequest(
        prompt="a", model="m", aspect_ratio="default", quantity=1, reference_image_urls=()
    )
    return Record(
        key="0" * 24,
        prompt=ImagePrompt(prompt="a"),
        request=request,
        state=state,
        generation_id=generation_id,
    )


def test_what_is_left_is_said_in_one_line() -> None:
    states: list[State] = ["stored"] * 12 + ["generated"] * 3 + ["asked"]  # type: ignore[assignment]
    states += ["not_charged", "planned", "warning", "failed", "lost", "unknown"]
    records = [_record(state) for state in states] + [_record("submitted", "g"), _record("unknown", "h")]
    assert what_is_left(records, []) == (
        "stopped: 12 stored, 1 refused by the safety check, 2 failed, 3 paid and not copied, "
        "2 begun and to be fetched, 2 without an answer, 2 not asked; run the same batch again to go on"
    )


@pytest.mark.parametrize(
    ("told", "seconds"), [(None, DEFAULT_GRACE_SECONDS), ("", DEFAULT_GRACE_SECONDS), (" 7.5 ", 7.5)]
)
def test_the_grace_is_read_from_the_environment(
    told: str | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NAME, raising=False)
    if told is not None:
        monkeypatch.setenv(NAME, told)
    assert grace_seconds() == seconds


@pytest.mark.parametrize("told", ["soon", "-1", "nan", "inf"])
@pytest.mark.usefixtures("prefect_server")
def test_a_grace_that_is_none_stops_the_run_before_it_spends(
    told: str, run: Callable[..., object], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, told)
    with pytest.raises(InvalidInput, match=NAME):
        run("a")
    assert sandbox.account.posts == 0
