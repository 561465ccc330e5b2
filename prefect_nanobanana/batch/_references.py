"""Private references: pictures in S3, and local files, that the API is offered for a request.

A prompt is known by what they hold, not by where they are alone: a picture that has changed is asked for
again, and one that has not never is. So each is read once, and the batch remembers its hash:

    <batch>/references/known.json           by address: version and hash
    <batch>/references/<hash>.<extension>   local files

All of it happens before anything is spent. What was read and is gone since is still known by its hash,
as it is needed for prompts that are to be asked alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from prefect_nanobanana._common.adjustable import Adjustable
from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana._common.references import (
    is_path,
    is_private,
    reference_problem,
    split_hash,
    with_hash,
)
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._local_files import LocalFiles
from prefect_nanobanana.batch._prompts import Listed
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copier
from prefect_nanobanana.models import ImagePrompt, ImageRequest
from prefect_nanobanana.s3 import POOL_CONNECTIONS

MAX_REFERENCE_BYTES = Adjustable(20 * 1024 * 1024)
"""Our own bound, to catch what is no reference; the API documents none."""
OFFERED_BEYOND_SECONDS = 60.0
"""An address is valid for so much longer than an answer is waited for, as clocks differ."""
_FOLDER, _KNOWN = "references", "known.json"
_PARAMETER = "reference_image_urls"
_FILES = LocalFiles(_PARAMETER, "references")


class _Known(BaseModel):
    """What was found at an address."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    tag: str = ""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    extension: str = Field(pattern="^[a-z0-9]{1,8}$")


_ALL_KNOWN = TypeAdapter(dict[str, _Known])


@dataclass(frozen=True)
class _Found:
    """A private reference.

    Attributes:
        known: What it holds, or held when it was read last; None if it never was.
        problem: Why it cannot be offered; None if it can.
    """

    known: _Known | None
    problem: str | None = None


class References:
    """The private references of a run.

    Args:
        ledger: The batch's.
        local_files: Whether there may be local files; parts of a run may be elsewhere.
        api_is_private: Whether the API is in a private network, so that the store may be, too.
    """

    def __init__(self, ledger: Ledger, *, local_files: bool, api_is_private: bool) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._local_files = local_files
        self._api_is_private = api_is_private
        self._found: dict[str, _Found] = {}
        self._before: dict[str, _Known] = {}
        self._paths: dict[str, str] = {}

    @classmethod
    def of(
        cls,
        listed: Sequence[Listed],
        generator: NanoBananaGenerator,
        ledger: Ledger,
        *,
        local_files: bool = True,
    ) -> Self:
        """Find out what the private references of a list hold.

        Args:
            listed: The prompts.
            generator: Has those of prompts that name none.
            ledger: The batch's.
            local_files: Whether there may be local files.

        Raises:
            StorageError: If the store cannot be used.
        """
        api_is_private = reference_problem(generator.credentials.base_url) is not None
        references = cls(ledger, local_files=local_files, api_is_private=api_is_private)
        prompts = (item.prompt for item in listed)
        references.look_up(prompts, generator.reference_image_urls)
        return references

    def known(self, requests: Sequence[ImageRequest]) -> list[ImageRequest]:
        """Requests whose references are named by what they are known by."""
        if not self._found:
            return [*requests]
        return [
            request.model_copy(
                update={_PARAMETER: tuple(map(self.identity, request.reference_image_urls))}
            )
            for request in requests
        ]

    def look_up(self, prompts: Iterable[ImagePrompt], others: Iterable[str]) -> None:
        """Find out what all of them hold.

        Args:
            prompts: The prompts of a run.
            others: References of those that name none.

        Raises:
            StorageError: If the store cannot be used.
        """
        named = (url for prompt in prompts for url in prompt.reference_image_urls or ())
        private = [url for url in dict.fromkeys([*others, *named]) if is_private(url)]
        if not private:
            return
        self._before = self._read_known()
        with ThreadPoolExecutor(POOL_CONNECTIONS // 2) as pool:
            self._found = dict(zip(private, pool.map(self._look_up, private), strict=True))
        for url in filter(is_path, private):
            self._paths[self.shown(url)] = url
        self._found |= {self.shown(url): self._found[url] for url in filter(is_path, private)}

    def shown(self, url: str) -> str:
        """Where a reference is, or will be; a local one in the batch's folder."""
        found = self._found.get(url)
        if found is None or found.known is None or not is_path(url):
            return url
        name = f"{found.known.sha256}.{found.known.extension}"
        return self._store.uri(self._ledger.key(_FOLDER, name))

    def identity(self, url: str) -> str:
        """What a reference is known by: its address, and if it is private the hash of what it holds."""
        found = self._found.get(url)
        known = found.known if found is not None else None
        return url if known is None else with_hash(self.shown(url), known.sha256)

    def unsent(self, prompt: ImagePrompt) -> ImagePrompt:
        """A prompt whose local files are named by where they will be, as it is recorded."""
        urls = prompt.reference_image_urls
        if not urls or not any(map(is_path, urls)):
            return prompt
        return prompt.model_copy(update={_PARAMETER: [self.shown(url) for url in urls]})

    def problems(self, identities: Sequence[str]) -> list[str]:
        """Why references of a prompt that is to be asked cannot be offered."""
        problems = {self.identity(url): found.problem for url, found in self._found.items()}
        told = (problems.get(identity) for identity in identities)
        return list(dict.fromkeys(problem for problem in told if problem))

    def offer(self, identities: Iterable[str]) -> None:
        """Upload local files that are to be offered, once, and remember what was read.

        Raises:
            InvalidInput: If a file has changed, or is gone.
            StorageError: If that cannot be written.
        """
        if not self._found:
            return
        for identity in dict.fromkeys(identities):
            uri, digest = split_hash(identity)
            if uri in self._paths:
                self._upload(uri, self._paths[uri], digest)
        known = {url: found.known for url, found in self._found.items() if found.known is not None}
        if not known.items() <= self._before.items():
            self._before |= known
            body = _ALL_KNOWN.dump_json(self._before, indent=1)
            self._store.put(self._ledger.key(_FOLDER, _KNOWN), body, "application/json")

    def _read_known(self) -> dict[str, _Known]:
        found = self._store.find(self._ledger.key(_FOLDER, _KNOWN))
        try:
            return _ALL_KNOWN.validate_json(found[0]) if found else {}
        except (ValidationError, RecursionError):  # all are read anew then
            return {}

    def _look_up(self, url: str) -> _Found:
        before = self._before.get(url)
        try:
            return _Found(self._read_file(url) if is_path(url) else self._read_object(url, before))
        except InvalidInput as error:
            return _Found(before, "; ".join(error.problems))

    def _read_file(self, url: str) -> _Known:
        if not self._local_files:
            raise InvalidInput(
                f"{_PARAMETER}: {quoted(url)} is a local file, and parts may run elsewhere: upload it, "
                "and give its s3:// address"
            )
        known, _ = self._checked(url, _FILES.read(_path(url), MAX_REFERENCE_BYTES.get() + 1))
        if problem := self._out_of_reach(self._store.uri(self._ledger.key(_FOLDER, "x"))):
            raise InvalidInput(problem)
        return known

    def _read_object(self, url: str, before: _Known | None) -> _Known:
        if problem := reference_problem(url) or self._out_of_reach(url):
            raise InvalidInput(problem if problem.startswith(_PARAMETER) else f"{_PARAMETER}: {problem}")
        there = self._store.uris.head(url, parameter=_PARAMETER)
        if there is None:
            raise InvalidInput(f"{_PARAMETER}: {quoted(url)} is not there: check the address")
        if (there.size or 0) > MAX_REFERENCE_BYTES.get():
            raise _too_large(url)
        if before is not None and there.tag and there.tag == before.tag:
            return before
        content = self._store.uris.read(url, MAX_REFERENCE_BYTES.get() + 1, parameter=_PARAMETER)
        known, _ = self._checked(url, content)
        return known.model_copy(update={"tag": there.tag})

    def _checked(self, url: str, content: bytes) -> tuple[_Known, str]:
        if len(content) > MAX_REFERENCE_BYTES.get():
            raise _too_large(url)
        try:
            picture = Copier.check_picture(content)
        except ValueError as error:
            raise InvalidInput(
                f"{_PARAMETER}: {quoted(url)} is not a picture that can be offered ({error}): give a "
                "PNG, JPEG, WebP, GIF, AVIF or BMP"
            ) from None
        known = _Known(sha256=sha256(content).hexdigest(), extension=picture.extension)
        return known, picture.content_type

    def _upload(self, uri: str, path: str, digest: str) -> None:
        key = uri.removeprefix(self._store.uri(""))
        if self._store.head(key) is not None:
            return
        content = _FILES.read(_path(path), MAX_REFERENCE_BYTES.get() + 1)
        known, content_type = self._checked(path, content)
        if known.sha256 != digest:
            raise InvalidInput(
                f"{_PARAMETER}: {quoted(path)} has changed while the run was planned: run it again"
            )
        self._store.put(key, content, content_type)

    def _out_of_reach(self, uri: str) -> str | None:
        """Why the API cannot reach the store, if that can be seen of its address."""
        if self._api_is_private:
            return None
        parts = urlsplit(self._store.uris.presign(uri, 1))
        store = f"{parts.scheme}://{parts.netloc}/"
        problem = reference_problem(store)
        return f"{_PARAMETER}: the store of {quoted(uri)}, {problem}" if problem else None


def _path(url: str) -> str:
    """The path of a local file."""
    return unquote(re.sub("^file://", "", url)) if url.lower().startswith("file:///") else url


def _too_large(url: str) -> InvalidInput:
    most = MAX_REFERENCE_BYTES.get() // (1024 * 1024)
    return InvalidInput(f"{_PARAMETER}: {quoted(url)} is larger than {most} MB: make it smaller")
