"""The block that holds the API key."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx
from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from prefect_nanobanana._common.addresses import without_signature, without_userinfo
from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana._common.origins import Origin
from prefect_nanobanana.client import DEFAULT_BASE_URL, DEFAULT_REQUEST_TIMEOUT_SECONDS
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.slots import Slots, slots_for

if TYPE_CHECKING:
    from prefect_nanobanana.client import AsyncNanoBananaClient, NanoBananaClient

LOGO_URL = "https://raw.githubusercontent.com/twitter/twemoji/v14.0.2/assets/72x72/1f34c.png"
DOCUMENTATION_URL = "https://www.nananobanana.com"


class NanoBananaCredentials(CredentialsBlock):
    """Holds the key of a Nano Banana account, and what the account may do.

    Attributes:
        api_key: The account's API key.
        base_url: Where the API is.
        max_concurrent_requests: How many requests the account may have open at once.
        request_timeout_seconds: How long to wait for an answer, in seconds.
        image_hosts: Hosts that images may also be fetched from, over plain http or in private networks.
        low_credits: With fewer credits left after a run, an event is sent.

    Example:
        Load stored credentials and read the account's balance:
        ```python
        from prefect_nanobanana import NanoBananaCredentials

        credentials = NanoBananaCredentials.load("BLOCK_NAME")
        with credentials.get_client() as client:
            print(client.credits())
        ```
    """

    _block_type_name = "Nano Banana Credentials"
    _block_type_slug = "nano-banana-credentials"
    _logo_url = LOGO_URL  # type: ignore[assignment]  # Prefect checks and converts it
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]
    _description = "Holds the key of a Nano Banana account, and what the account may do."

    # Without this a mistake in the form would print the key into the run's stored log.
    model_config = ConfigDict(hide_input_in_errors=True)

    api_key: SecretStr = Field(
        title="API key",
        description="The account's key, as nb_...; the API shows it once.",
    )
    base_url: str = Field(
        default=DEFAULT_BASE_URL,
        title="Base URL",
        description="Where the API is. Leave it as it is for the live service.",
    )
    max_concurrent_requests: int = Field(
        default=1,
        ge=1,
        le=1000,
        title="Requests at once",
        description="How many requests the account may have open at once. Most may have one.",
    )
    request_timeout_seconds: float = Field(
        default=DEFAULT_REQUEST_TIMEOUT_SECONDS,
        gt=0,
        le=3600,
        title="Time-out in seconds",
        description="How long to wait for an image. The vendor asks for at least 120 seconds.",
    )

    image_hosts: list[str] = Field(
        default=[],
        title="Image hosts in your own network",
        description="Images are fetched over https, and from public addresses only. List host names or "
        "addresses here that may be asked over plain http and in private networks, too; with port or "
        "scheme, as http://10.0.0.7:9000, only at that.",
    )

    low_credits: int = Field(
        default=20,
        ge=0,
        title="Low on credits below",
        description="With fewer credits left after a run, the event nanobanana.credits.low is sent, "
        "which an automation can act on. 0 for never.",
    )

    @field_validator("image_hosts")
    @classmethod
    def _hosts_are_hosts(cls, value: list[str]) -> list[str]:
        hosts = []
        for host in value:
            try:
                hosts.append(str(Origin.parse(host)))
            except ValueError:
                shown = quoted(without_signature(without_userinfo(host)))
                raise ValueError(
                    f"{shown} is not a host: give its name or address, as images.example or 10.0.0.7, "
                    "and scheme and port if only those are meant, as http://10.0.0.7:9000"
                ) from None
        return hosts

    @field_validator("api_key")
    @classmethod
    def _key_can_be_sent(cls, value: SecretStr) -> SecretStr:
        key = _bare_key(value.get_secret_value())
        if not key:
            raise ValueError("the API key is empty: paste the key that starts with nb_")
        if _MASKED.search(key):
            raise ValueError(
                "the API key is masked (asterisks): copy the key itself, not what a form or a dump shows"
            )
        if key.lower().startswith("bearer"):
            raise ValueError('leave out the word "Bearer": paste only the key that starts with nb_')
        if not key.isascii() or not key.isprintable() or " " in key or "://" in key:
            raise ValueError(
                "the API key holds spaces, line breaks or characters that no key has, or is an address: "
                "copy it again"
            )
        return SecretStr(key)

    @field_validator("base_url")
    @classmethod
    def _address_is_safe(cls, value: str) -> str:
        value = value.strip().rstrip("/")
        # What urlsplit passes over is not what is sent.
        if any(c.isspace() or not c.isprintable() or c == "\\" for c in value):
            raise ValueError(
                "the base URL must start with https:// and hold no blank, tab, line break or "
                f"backslash, as {DEFAULT_BASE_URL}"
            )
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
            httpx.URL(value)
        except (ValueError, httpx.InvalidURL):
            raise ValueError(f"the base URL is no web address: use {DEFAULT_BASE_URL}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError(
                f"the base URL must start with https:// and name a host, as {DEFAULT_BASE_URL}"
            )
        if "@" in parts.netloc or "?" in value or "#" in value:
            raise ValueError("the base URL must have no user name, password, ? or #")
        return value

    @model_validator(mode="after")
    def _key_is_not_sent_in_clear(self) -> Self:
        # Where a name leads to is looked at again when it is connected to.
        parts = urlsplit(self.base_url)
        local = _is_loopback(parts.hostname or "")
        if parts.scheme == "http" and not local and not self._plain_http_hosts:
            raise ValueError(
                "the base URL must start with https://, as the API key would be sent in clear; "
                "http:// is for servers on this machine, and for hosts that are listed under image_hosts"
            )
        return self

    @classmethod
    def from_env(cls, **settings: Any) -> NanoBananaCredentials:
        """Make credentials from the environment.

        Reads the key from `NANO_BANANA_API_KEY`, else `NB_API_KEY` (as the vendor's tools do), and the
        API's address from `NANO_BANANA_BASE_URL`.

        Args:
            **settings: Other fields of the block.

        Raises:
            InvalidInput: If neither variable holds a key.
        """
        key = next((os.environ[name] for name in _VARIABLES if os.environ.get(name, "").strip()), None)
        if not key:
            raise InvalidInput(
                "no API key: set the environment variable NANO_BANANA_API_KEY to your key (nb_...)"
            )
        if url := os.environ.get("NANO_BANANA_BASE_URL"):
            settings.setdefault("base_url", url)
        return cls(api_key=SecretStr(key), **settings)

    @property
    def account(self) -> str:
        """Tells accounts apart without giving away the key."""
        secret = f"{self.base_url}\n{self.api_key.get_secret_value()}"
        return hashlib.sha256(secret.encode()).hexdigest()[:12]

    @property
    def trusted_hosts(self) -> list[str]:
        """Hosts that images may be fetched from over plain http, and in private networks.

        These are the API's own, at its scheme and port, where everything else goes, too, and those under
        `image_hosts`. The public service needs no exemption.
        """
        own = Origin.parse(self.base_url.partition("://")[0] + "://" + urlsplit(self.base_url).netloc)
        hosts = [] if own.host == urlsplit(DEFAULT_BASE_URL).hostname else [own.host]
        if _is_loopback(own.host):
            hosts += [host for host in ("localhost", "127.0.0.1", "::1") if host != own.host]
        return [*self.image_hosts, *(str(replace(own, host=host)) for host in hosts)]

    @property
    def _plain_http_hosts(self) -> list[str]:
        """The API's own host, if the block names it among those that may be asked over plain http."""
        parts = urlsplit(self.base_url)
        host, port = parts.hostname or "", parts.port or 80
        listed = (Origin.parse(text) for text in self.image_hosts)
        return [host] if any(each.covers("http", host, port) for each in listed) else []

    @property
    def slots(self) -> Slots:
        """The account's request slots in this process."""
        return slots_for(self.account, self.max_concurrent_requests)

    def get_client(self) -> NanoBananaClient:
        """Return a new client; close it, or use it in a `with` statement.

        All clients of an account in this process share the account's slots.
        """
        from prefect_nanobanana.client import NanoBananaClient

        return NanoBananaClient(
            self.api_key.get_secret_value(),
            self.base_url,
            request_timeout_seconds=self.request_timeout_seconds,
            gate=self.slots,
            plain_http_hosts=self._plain_http_hosts,
        )

    def get_async_client(self) -> AsyncNanoBananaClient:
        """Return a new client for async code; close it, or use it in an `async with` statement."""
        from prefect_nanobanana.client import AsyncNanoBananaClient

        return AsyncNanoBananaClient(
            self.api_key.get_secret_value(),
            self.base_url,
            request_timeout_seconds=self.request_timeout_seconds,
            gate=self.slots,
            plain_http_hosts=self._plain_http_hosts,
        )


_VARIABLES = ("NANO_BANANA_API_KEY", "NB_API_KEY")
_AROUND = "\"'`“”„‘’‚«»,;{}"
_NAMED = re.compile(r"(?:export\s+|set\s+|\$env:|--?)?(?!nb_)([\w.-]+)[\"']?\s*[=:]\s*(\S.*)", re.DOTALL)
_MASKED = re.compile(r"\*\*|[•●…]|\.{3}|^(nb_)?\*+$")


def _bare_key(text: str) -> str:
    """A key without what is copied along with it: blanks, line breaks, quotes, `NAME=`."""
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")  # invisible, and in no key
    before = None
    while text != before:
        before, text = text, text.strip().strip(_AROUND)
        named = _NAMED.fullmatch(text)
        if named and ("key" in named[1].lower() or named[2].lstrip(_AROUND).startswith("nb_")):
            text = named[2]
    return text


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
