"""What must go no further than the client: should a server send it back, it is taken out at once."""

from __future__ import annotations

from collections.abc import Iterable

from prefect_nanobanana.client._payload import without_key


class Secrets:
    """The key, and what signs the addresses that the API was offered; safe to use from many threads.

    Args:
        key: The API key.
    """

    def __init__(self, key: str = "") -> None:
        self._secrets: tuple[bytes, ...] = (key.encode(),)

    def __repr__(self) -> str:
        return "Secrets()"

    def add(self, secrets: Iterable[str]) -> None:
        """Remember more of them."""
        self._secrets = tuple(dict.fromkeys((*self._secrets, *(s.encode() for s in secrets))))

    def removed_from(self, content: bytes) -> bytes:
        """A body in which none of them stands, however JSON may write it."""
        for secret in self._secrets:
            content = without_key(content, secret)
        return content

    def removed_from_text(self, text: str) -> str:
        """A text in which none of them stands."""
        for secret in filter(None, self._secrets):
            text = text.replace(secret.decode(), "[key]")
        return text
