"""Keys and addresses as people paste them: taken, or refused in words that name the cure."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from prefect_nanobanana import (
    GenerationRun,
    InvalidInput,
    NanoBananaCredentials,
    NanoBananaGenerator,
    Submission,
)
from prefect_nanobanana.sandbox import Sandbox

KEY = "nb_hush-hush"


@pytest.mark.parametrize(
    "given",
    [
        f'"{KEY}"',
        f"'{KEY}'\n",
        f"“{KEY}”",
        f"`{KEY}`",
        f"NANO_BANANA_API_KEY={KEY}",
        f"export NB_API_KEY='{KEY}'\r\n",
        f'$env:NB_API_KEY = "{KEY}"',
        f'api_key: "{KEY}",',
        f"\n\n{KEY}\n",
        f'"{KEY}\n"',
        f"\ufeff{KEY}",
        f"\u200f{KEY}\u202c\u200d",
        f"\u00a0{KEY}\u3000",
        f"{KEY[:5]}\u200b{KEY[5:]}",
        f'{{"api_key": "{KEY}"}}',
        f'"apiKey":"{KEY}",',
        f"--api-key={KEY}",
        f"X-Api-Key:{KEY}",
        f"api.key = '{KEY}'",
    ],
)
def test_what_is_copied_along_with_a_key_is_left_out(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert NanoBananaCredentials(api_key=SecretStr(given)).api_key.get_secret_value() == KEY
    monkeypatch.setenv("NB_API_KEY", given)
    assert NanoBananaCredentials.from_env().api_key.get_secret_value() == KEY


@pytest.mark.parametrize("key", ["nb_x=", "nb_key=abc", "a=b"])
def test_what_belongs_to_a_key_stays(key: str) -> None:
    assert NanoBananaCredentials(api_key=SecretStr(key)).api_key.get_secret_value() == key


@pytest.mark.parametrize(
    "key", ["********", "*", "nb_****", "NB_API_KEY=********", "•••••", "nb_12...ef", "nb_12…ef"]
)
def test_a_masked_key_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="masked"):
        NanoBananaCredentials(api_key=SecretStr(key))


@pytest.mark.parametrize("key", ["https://www.nananobanana.com", "Bearer nb_x", "ｎｂ_x", "nb_x nb_y"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="copy it again|leave out the word") as caught:
        NanoBananaCredentials(api_key=SecretStr(key))
    assert key not in str(caught.value)


def test_a_blank_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANO_BANANA_API_KEY", " \n")
    with pytest.raises(InvalidInput, match="no API key"):
        NanoBananaCredentials.from_env()
    monkeypatch.setenv("NB_API_KEY", KEY)
    assert NanoBananaCredentials.from_env().api_key.get_secret_value() == KEY


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example/\tv1",
        "https://api.example\n.evil.example/v1",
        "https://api.example\\@evil.example/v1",
        "https://api.example /v1",
        "https://@api.example/v1",
        "https://api.example/v1?",
        "https://api.example/v1#",
        "https://api.example/\u200bv1",
        "http://10.0.0.7/api/v1",
        "http://127.1/api/v1",
        "http://2130706433/api/v1",
        "http://localhost.example/api/v1",
    ],
)
def test_an_address_is_read_whole(url: str) -> None:
    with pytest.raises(ValidationError, match="the base URL must"):
        NanoBananaCredentials(api_key=SecretStr("nb_x"), base_url=url)


def test_plain_http_to_a_host_that_the_block_lists() -> None:
    url = "http://box.internal:8765/api/v1"
    with pytest.raises(ValidationError, match="image_hosts"):
        NanoBananaCredentials(api_key=SecretStr("nb_x"), base_url=url)
    listed = NanoBananaCredentials(api_key=SecretStr("nb_x"), base_url=url, image_hosts=["Box.internal"])
    assert listed.base_url == url


def test_a_run_made_again_says_how_it_was_asked(
    generator: NanoBananaGenerator, sandbox: Sandbox
) -> None:
    begun = generator.trigger("x")
    assert isinstance(begun, GenerationRun)
    assert generator.generation_run(begun.generation_id).fetch_result().mode == "async"  # type: ignore[union-attr]
    again = generator.generation_run(begun.generation_id, mode="stream")
    assert again.fetch_result().mode == "stream"  # type: ignore[union-attr]
    submission = Submission(generation_id=begun.generation_id, mode="stream")
    assert generator.wait(submission).mode == "stream"
