"""The blocks: Prefect's own suite, plain words for mistakes, and no secrets in them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError
from servers import Reply, Scripted

from prefect_nanobanana import (
    AuthenticationFailed,
    ImagePrompt,
    InvalidInput,
    NanoBananaCredentials,
    NanoBananaGenerator,
)
from prefect_nanobanana.client import DEFAULT_BASE_URL
from prefect_nanobanana.sandbox import Sandbox

SECRET = "nb_hush-hush"


class _Suite(BlockStandardTestSuite):
    block_type: type[Block]

    @pytest.fixture
    def block(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Block]]:
        # Prefect's suite fetches the logo over the network: it is served from here.
        png = io.BytesIO()
        Image.new("RGB", (72, 72), "gold").save(png, "PNG")
        with Scripted(lambda _: Reply(png.getvalue(), 200, {"Content-Type": "image/png"})) as server:
            monkeypatch.setattr(self.block_type, "_logo_url", server.url + "/logo.png")
            yield self.block_type


class TestCredentialsBlock(_Suite):
    block_type = NanoBananaCredentials


class TestGeneratorBlock(_Suite):
    block_type = NanoBananaGenerator


@pytest.mark.parametrize("block", [NanoBananaCredentials, NanoBananaGenerator])
def test_every_field_has_a_title_and_a_sentence(block: type[Block]) -> None:
    for name, field in block.model_fields.items():
        assert field.title, name
        assert field.description, name
        assert field.description.endswith(".")


def test_the_form_shows_the_fields_in_this_order() -> None:
    # Their order is in the schema's checksum: they are appended to, never reordered.
    assert list(NanoBananaCredentials.model_fields)[:4] == [
        "api_key",
        "base_url",
        "max_concurrent_requests",
        "request_timeout_seconds",
    ]
    assert list(NanoBananaGenerator.model_fields)[:6] == [
        "credentials",
        "model",
        "mode",
        "aspect_ratio",
        "quantity",
        "reference_image_urls",
    ]


def test_names_that_stored_blocks_depend_on() -> None:
    assert NanoBananaCredentials.get_block_type_slug() == "nano-banana-credentials"
    assert NanoBananaGenerator.get_block_type_slug() == "nano-banana-generator"
    assert NanoBananaCredentials._block_type_name == "Nano Banana Credentials"
    assert NanoBananaGenerator._block_type_name == "Nano Banana Generator"


def test_defaults() -> None:
    credentials = NanoBananaCredentials(api_key=SecretStr("nb_x"))
    assert credentials.base_url == DEFAULT_BASE_URL == "https://www.nananobanana.com/api/v1"
    assert credentials.max_concurrent_requests == 1
    assert credentials.request_timeout_seconds == 180
    generator = NanoBananaGenerator(credentials=credentials)
    assert (generator.model, generator.mode, generator.quantity) == ("nano-banana", "sync", 1)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("Bearer nb_x", 'leave out the word "Bearer"'),
        (f"{SECRET} two", "copy it again"),
        (f"{SECRET}\nX", "copy it again"),
        (f"{SECRET}ä", "copy it again"),
    ],
)
def test_a_bad_key_is_told_in_words_and_not_shown(key: str, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        NanoBananaCredentials(api_key=SecretStr(key))
    assert says in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_key_of_the_wrong_type_is_not_shown_either() -> None:
    with pytest.raises(ValidationError) as caught:
        NanoBananaCredentials.model_validate({"api_key": [SECRET], "base_url": SECRET})
    assert "hush" not in str(caught.value)


def test_spaces_around_a_key_are_forgiven() -> None:
    credentials = NanoBananaCredentials(api_key=SecretStr(f" {SECRET}\n"))
    assert credentials.api_key.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("not a url", "must start with https://"),
        ("ftp://host/api", "must start with https://"),
        ("https://", "must start with https://"),
        ("https://host:port/api", "no web address"),
        ("http://api.example/v1", "sent in clear"),
        ("https://user:pw@api.example/v1", "no user name"),
        ("https://api.example/v1?x=1", "no user name, password, ?"),
    ],
)
def test_a_bad_address_is_told_in_words(url: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says.replace("?", r"\?")):
        NanoBananaCredentials(api_key=SecretStr("nb_x"), base_url=url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/api", "http://localhost", "http://x.localhost:2", "http://[::1]:3/"]
)
def test_plain_http_is_for_this_machine(url: str) -> None:
    assert NanoBananaCredentials(api_key=SecretStr("nb_x"), base_url=url).base_url == url.rstrip("/")


@pytest.mark.parametrize(
    "changes",
    [
        {"max_concurrent_requests": 0},
        {"request_timeout_seconds": 0},
    ],
)
def test_bounds_of_credentials(changes: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        NanoBananaCredentials.model_validate({"api_key": "nb_x", **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quantity": 5}, "less than or equal to 4"),
        ({"quantity": 0}, "greater than or equal to 1"),
        ({"model": " "}, "must not be empty"),
        ({"reference_image_urls": ["cat.png"]}, "is not a web address"),
        ({"reference_image_urls": ["x" * 200]}, r"xx\.\.\."),
        ({"mode": "later"}, "sync"),
    ],
)
def test_bounds_of_the_generator(
    credentials: NanoBananaCredentials, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        NanoBananaGenerator.model_validate({"credentials": credentials, **changes})


def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="NANO_BANANA_API_KEY"):
        NanoBananaCredentials.from_env()
    monkeypatch.setenv("NB_API_KEY", "nb_second")
    assert NanoBananaCredentials.from_env().api_key.get_secret_value() == "nb_second"
    monkeypatch.setenv("NANO_BANANA_API_KEY", "nb_first")
    monkeypatch.setenv("NANO_BANANA_BASE_URL", "http://127.0.0.1:9/api")
    credentials = NanoBananaCredentials.from_env(max_concurrent_requests=3)
    assert credentials.api_key.get_secret_value() == "nb_first"
    assert credentials.base_url == "http://127.0.0.1:9/api"
    assert credentials.max_concurrent_requests == 3


def test_secrets_are_in_no_text(credentials: NanoBananaCredentials) -> None:
    block = NanoBananaCredentials(api_key=SecretStr(SECRET))
    generator = NanoBananaGenerator(credentials=block)
    for text in (repr(block), str(block), repr(generator), block.account, generator.model_dump_json()):
        assert "hush" not in text


def test_accounts_are_told_apart_without_the_key() -> None:
    one = NanoBananaCredentials(api_key=SecretStr("nb_1"))
    assert one.account == NanoBananaCredentials(api_key=SecretStr("nb_1")).account
    assert one.account != NanoBananaCredentials(api_key=SecretStr("nb_2")).account
    assert one.slots is NanoBananaCredentials(api_key=SecretStr("nb_1")).slots


def test_blocks_can_be_pickled_after_use(generator: NanoBananaGenerator) -> None:
    assert generator.generate("a cat").status == "completed"
    again = pickle.loads(pickle.dumps(generator))
    assert again.generate("a cat").status == "completed"


def test_blocks_can_be_saved_and_loaded(prefect_server: None, generator: NanoBananaGenerator) -> None:
    generator.credentials.save("acct", overwrite=True)
    generator.save("gen", overwrite=True)
    loaded: Any = NanoBananaGenerator.load("gen")
    assert loaded.credentials.api_key == generator.credentials.api_key
    assert loaded.generate("a cat").status == "completed"


def test_a_prompt_overrides_the_generator(credentials: NanoBananaCredentials) -> None:
    generator = NanoBananaGenerator(
        credentials=credentials, quantity=2, reference_image_urls=["https://e/1.png"]
    )
    assert generator.request(" a cat ").model_dump() == {
        "prompt": "a cat",
        "model": "nano-banana",
        "aspect_ratio": "default",
        "quantity": 2,
        "reference_image_urls": ("https://e/1.png",),
    }
    prompt = ImagePrompt(prompt="x", model="m", aspect_ratio="1:1", quantity=1, reference_image_urls=[])
    request = generator.request(prompt, aspect_ratio="16:9")
    assert (request.model, request.aspect_ratio, request.quantity) == ("m", "16:9", 1)
    assert request.reference_image_urls == ()


@pytest.mark.parametrize("bad", ["", "  ", "x" * 8001])
def test_a_bad_prompt_is_never_sent(sandbox: Sandbox, generator: NanoBananaGenerator, bad: str) -> None:
    with pytest.raises(InvalidInput, match="prompt: the prompt"):
        generator.generate(bad)
    with pytest.raises(InvalidInput, match="quantity: Input should be less than"):
        generator.generate("fine", quantity=9)
    assert sandbox.account.posts == 0


def test_estimate(sandbox: Sandbox, generator: NanoBananaGenerator) -> None:
    two = ImagePrompt(
        prompt="b",
        model="nanobanan-2",
        quantity=3,
        reference_image_urls=["https://e/1", "https://e/2", "https://e/3"],
    )
    assert generator.estimate_credits("a", two) == 1 + (2 + 2) * 3
    assert generator.estimate_credits(ImagePrompt(prompt="c", model="unlisted")) is None
    estimate = generator.estimate_credits(two)
    sandbox.account.credits = 100
    assert generator.generate(two).credits_used == estimate


def test_a_wrong_key_says_where_to_mend_it(sandbox: Sandbox) -> None:
    wrong = NanoBananaCredentials(api_key=SecretStr(SECRET), base_url=sandbox.base_url)
    with pytest.raises(AuthenticationFailed, match="Credentials block") as caught:
        NanoBananaGenerator(credentials=wrong).generate("a cat")
    assert "hush" not in f"{caught.value!r} {caught.value.__dict__}"
