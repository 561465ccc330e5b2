"""Private references: pictures in S3, and local files, that the API is offered for a request.

A prompt is known by what they hold, not by where they are alone: a picture that has changed is asked for
again, and one that has not never is. So each is read once, and the batch remembers its hash:

    <batch>/references/known.json           by address: version and hash
    <batch>/references/<hash>.<extension>   local files

All of it happens before anything is spent. What was read and is gone since is still known by its hash,
as it is needed for prompts that are to be asked alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Self
from urllib.parse import urlsplit

from prefect_nanobanana._common.addresses import without_signature, without_userinfo
from prefect_nanobanana._common.adjustable import Adjustable
from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana._common.local_files import LocalFiles
from prefect_nanobanana._common.references import (
    FOLDER,
    is_path,
    is_private,
    local_path,
    reference_problem,
    split_hash,
    with_hash,
)
from prefect_nanobanana.batch._known_references import (
    Known,
    KnownReferences,
    remembered_name,
)
from prefect_nanobanana.batch._ledger import Ledger
from prefect_nanobanana.batch._prompts import Listed
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.generator import NanoBananaGenerator
from prefect_nanobanana.images import Copier
from prefect_nanobanana.models import ImagePrompt, ImageRequest
from prefect_nanobanana.s3 import ObjectStore

MAX_REFERENCE_BYTES = Adjustable(20 * 1024 * 1024)
"""Our own bound, to catch what is no reference; the API documents none."""
OFFERED_BEYOND_SECONDS = 60.0
"""An address is valid for so much longer than an answer is waited for, as clocks differ."""
_PARAMETER = "reference_image_urls"
_FILES = LocalFiles(_PARAMETER, "references")


@dataclass(frozen=True)
class _Found:
    """A private reference.

    Attributes:
        known: What it holds, or held when it was read last; None if it never was.
        problem: Why it cannot be offered; None if it can.
    """

    known: Known | None
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
        self._memory = KnownReferences(self._store, ledger.key(FOLDER))
        self._before: dict[str, Known] = {}
        self._problems: dict[str, str | None] = {}
        self._reach: dict[str, str | None] = {}
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
        self._before = self._memory.read()
        # Whether a worker has started the run, and may read few files alone, stands in the context.
        jobs = [partial(copy_context().run, self._look_up, url) for url in private]
        with ThreadPoolExecutor(ObjectStore.POOL_CONNECTIONS // 2) as pool:
            self._found = dict(zip(private, pool.map(lambda job: job(), jobs), strict=True))
        for url in filter(is_path, private):
            uri, found = self.shown(url), self._found[url]
            if found.problem is None:
                self._paths[uri] = url
            if uri not in self._found or found.problem is None:
                self._found[uri] = found
        for url, found in self._found.items():
            identity = self.identity(url)  # of several that hold the same one suffices
            before = self._problems.get(identity, found.problem)
            self._problems[identity] = found.problem and before

    def shown(self, url: str) -> str:
        """Where a reference is, or will be; a local one in the batch's folder."""
        found = self._found.get(url)
        if found is None or found.known is None or not is_path(url):
            return url
        name = f"{found.known.sha256}.{found.known.extension}"
        return self._store.uri(self._ledger.key(FOLDER, name))

    def identity(self, url: str) -> str:
        """What a reference is known by: its address, and if it is private the hash of what it holds."""
        found = self._found.get(url)
        known = found.known if found is not None else None
        return url if known is None else with_hash(self.shown(url), known.sha256)

    def unsent(self, listed: Sequence[Listed]) -> Sequence[Listed]:
        """Prompts whose local files are named by where they will be, as they are recorded."""
        if not self._found:
            return listed
        return [replace(item, prompt=self._unsent(item.prompt)) for item in listed]

    def _unsent(self, prompt: ImagePrompt) -> ImagePrompt:
        urls = prompt.reference_image_urls
        if not urls or not any(map(is_path, urls)):
            return prompt
        return prompt.model_copy(update={_PARAMETER: [self.shown(url) for url in urls]})

    def problems(self, identities: Sequence[str]) -> list[str]:
        """Why references of a prompt that is to be asked cannot be offered."""
        told = (self._problems.get(identity) for identity in identities)
        return list(dict.fromkeys(problem for problem in told if problem))

    def offer(self, identities: Iterable[str]) -> None:
        """Upload local files that are to be offered, once, and remember what was read.

        Raises:
            InvalidInput: If a file has changed, or is gone.
            StorageError: If that cannot be written.
        """
        if not self._found:
            return
        split = (split_hash(identity) for identity in dict.fromkeys(identities))
        local = [(uri, self._paths[uri], digest) for uri, digest in split if uri in self._paths]
        jobs = [partial(copy_context().run, self._upload, *each) for each in local]
        with ThreadPoolExecutor(ObjectStore.POOL_CONNECTIONS // 2) as pool:
            for _ in pool.map(lambda job: job(), jobs):
                pass
        known = {remembered_name(url): f.known for url, f in self._found.items() if f.known is not None}
        if not known.items() <= self._before.items():
            self._memory.add(known)

    def tag(self, identity: str) -> str:
        """The version of an object in S3 that was read; empty if that is not known."""
        found = self._found.get(split_hash(identity)[0])
        return found.known.tag if found is not None and found.known is not None else ""

    def _look_up(self, url: str) -> _Found:
        before = self._before.get(remembered_name(url))
        try:
            return _Found(self._read_file(url) if is_path(url) else self._read_object(url, before))
        except InvalidInput as error:
            return _Found(before, "; ".join(error.problems))

    def _read_file(self, url: str) -> Known:
        if not self._local_files:
            raise InvalidInput(
                f"{_PARAMETER}: {_shown(url)} is a local file, and parts may run elsewhere: upload it, "
                "and give its s3:// address"
            )
        known, _ = self._checked(url, _FILES.read(local_path(url), MAX_REFERENCE_BYTES.get() + 1))
        if problem := self._out_of_reach(self._store.uri(self._ledger.key(FOLDER, "x"))):
            raise InvalidInput(f"{_PARAMETER}: {problem}")
        return known

    def _read_object(self, url: str, before: Known | None) -> Known:
        if problem := reference_problem(url) or self._out_of_reach(url):
            raise InvalidInput(f"{_PARAMETER}: {problem}")
        there = self._store.uris.head(url, parameter=_PARAMETER)
        if there is None:
            raise InvalidInput(f"{_PARAMETER}: {_shown(url)} is not there: check the address")
        if (there.size or 0) > MAX_REFERENCE_BYTES.get():
            raise _too_large(url)
        if before is not None and there.tag and there.tag == before.tag:
            return before
        content = self._store.uris.read(url, MAX_REFERENCE_BYTES.get() + 1, parameter=_PARAMETER)
        known, _ = self._checked(url, content)
        return known.model_copy(update={"tag": there.tag})

    def _checked(self, url: str, content: bytes) -> tuple[Known, str]:
        if len(content) > MAX_REFERENCE_BYTES.get():
            raise _too_large(url)
        try:
            picture = Copier.check_picture(content)
        except ValueError as error:
            raise InvalidInput(
                f"{_PARAMETER}: {_shown(url)} is not a picture that can be offered ({error}): give a "
                "PNG, JPEG, WebP, GIF, AVIF or BMP"
            ) from None
        known = Known(sha256=sha256(content).hexdigest(), extension=picture.extension)
        return known, picture.content_type

    def _upload(self, uri: str, path: str, digest: str) -> None:
        key = uri.removeprefix(self._store.uri(""))
        there = self._store.head(key)
        content = _FILES.read(local_path(path), MAX_REFERENCE_BYTES.get() + 1)
        if there is not None and there.size in (None, len(content)):
            return
        known, content_type = self._checked(path, content)
        if known.sha256 != digest:
            raise InvalidInput(
                f"{_PARAMETER}: {_shown(path)} has changed while the run was planned: run it again"
            )
        self._store.put(key, content, content_type)

    def _out_of_reach(self, uri: str) -> str | None:
        """Why the API cannot reach the store, if that can be seen of its address."""
        if self._api_is_private:
            return None
        bucket = uri.split("/")[2]
        if bucket not in self._reach:  # signing takes a while, and there may be very many
            parts = urlsplit(self._store.uris.presign(uri, 1))
            self._reach[bucket] = reference_problem(f"{parts.scheme}://{parts.netloc}/")
        problem = self._reach[bucket]
        return f"the store of {_shown(uri)}, {problem}" if problem else None


def _shown(url: str) -> str:
    """A reference as an error may say it."""
    return quoted(without_signature(without_userinfo(url)))


def _too_large(url: str) -> InvalidInput:
    most = MAX_REFERENCE_BYTES.get() // (1024 * 1024)
    return InvalidInput(f"{_PARAMETER}: {_shown(url)} is larger than {most} MB: make it smaller")
