"""Lists of prompts: from a parameter or a file, checked whole before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import ValidationError

from prefect_nanobanana._common.adjustable import Adjustable
from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana._common.references import is_path
from prefect_nanobanana.batch._sources import ReadS3, read_list
from prefect_nanobanana.batch._tables import COLUMNS, is_parquet, rows_of, unknown_column
from prefect_nanobanana.batch._templates import Templates, Variables
from prefect_nanobanana.errors import MAX_PROBLEMS, InvalidInput
from prefect_nanobanana.images import Fetcher
from prefect_nanobanana.models import ImagePrompt, PromptTemplate, describe_errors, prompt_problems

MAX_PROMPTS = Adjustable(100_000)
"""Of one run; each has a task run, a record and a row in the gallery."""


@dataclass(frozen=True)
class Listed:
    """A prompt, where it stands, for error messages, and what its variables stood for."""

    place: str
    prompt: ImagePrompt
    variables: Variables = ()


def gather_prompts(
    prompts: Sequence[str | ImagePrompt],
    prompts_from: str | None,
    read_s3: ReadS3,
    fetcher: Fetcher,
    template: PromptTemplate | None = None,
) -> list[Listed]:
    """Gather the prompts of a run and check them all.

    Args:
        prompts: Prompts given as a parameter.
        prompts_from: A `.txt`, `.csv`, `.tsv`, `.json` or `.jsonl` file: a local path, an `s3://`
            address, or an http(s) URL.
        read_s3: Reads an `s3://` address.
        fetcher: Reads a URL.
        template: What makes prompts of texts with variables; None if they are prompts themselves.

    Returns:
        All prompts, those of the parameter first.

    Raises:
        InvalidInput: If anything is wrong with any of them; names each file, line and cure.
        StorageError: If the bucket block cannot be used.
    """
    problems: list[str] = []
    listed: list[Listed] = []
    rows, most = 0, MAX_PROMPTS.get()
    templates = Templates(template, most)
    given = _rows(prompts, (prompts_from or "").strip(), read_s3, fetcher, templates)
    made = _filled(given, templates, problems)
    for place, row, variables, elsewhere in islice(made, templates.limit):
        rows += 1
        if rows > most:
            raise InvalidInput(f"{place}: there are more than {most} prompts: split the list")
        try:
            prompt = _prompt(row)
        except ValidationError as error:
            found = describe_errors(error)
        except InvalidInput as error:
            found = list(error.problems)
        else:
            found = prompt_problems(prompt) + (_local_files(prompt) if elsewhere else [])
            listed.append(Listed(place, prompt, variables))
        problems += [f"{place}: {text}" for text in found]
    problems += _twice_named(listed)
    if rows and not problems:
        templates.check_used()
    if not rows and not problems:
        problems = [
            "there are no prompts: give some in `prompts`, or a file with some in `prompts_from`"
        ]
    if problems:
        raise InvalidInput(*problems)
    return listed


def _filled(
    rows: Iterator[tuple[str, Any, bool]], templates: Templates, problems: list[str]
) -> Iterator[tuple[str, Any, Variables, bool]]:
    """The prompts that rows make; what is wrong with a row is noted, and the others go on."""
    for place, row, elsewhere in rows:
        try:
            for made in templates.fill(place, row):
                yield (*made, elsewhere)
        except InvalidInput as error:
            problems += [f"{place}: {text}" for text in error.problems]


def _rows(
    prompts: Sequence[str | ImagePrompt],
    source: str,
    read_s3: ReadS3,
    fetcher: Fetcher,
    templates: Templates,
) -> Iterator[tuple[str, Any, bool]]:
    """Where each row stands, the row, and whether it comes from another machine."""
    for number, given in enumerate(prompts, 1):
        yield f"prompts, row {number}", given, False
    if not source:
        if not prompts and templates.text:
            yield "template", {"prompt": ""}, False
        return
    name, content = read_list(source, read_s3, fetcher)
    found = False
    for line, row in rows_of(name, content, templates.text):
        found = True
        yield f"{name}, {'row' if is_parquet(name) else 'line'} {line}", row, "://" in source
    if content.strip() and not found:
        raise InvalidInput(f"{name}: there are no prompts in it: add some, or leave prompts_from empty")


def _local_files(prompt: ImagePrompt) -> list[str]:
    """Who writes a list that comes from elsewhere has no right to the pictures on this machine."""
    return [
        f"reference_image_urls: {quoted(url)} is a local file, and the list is not: give a web "
        "address or an s3:// address"
        for url in filter(is_path, prompt.reference_image_urls or ())
    ]


def _prompt(row: Any) -> ImagePrompt:
    if isinstance(row, ImagePrompt):
        return row
    if isinstance(row, str):
        return ImagePrompt(prompt=row)
    if not isinstance(row, dict):
        raise InvalidInput('a row must be a text in quotes or an object, as {"prompt": "a cat"}')
    unknown = [str(field) for field in row if field not in COLUMNS]
    if any(isinstance(row[field], list) for field in unknown) and "prompt" not in row:
        raise InvalidInput("a row must be a text or an object: give the list alone, in no object")
    if unknown:
        raise InvalidInput(*map(unknown_column, unknown[:MAX_PROBLEMS]))
    if "prompt" not in row:
        raise InvalidInput("prompt: is missing: say what to draw")
    return ImagePrompt.model_validate(row)


def _twice_named(listed: list[Listed]) -> list[str]:
    problems, places = [], dict[str, str]()
    for item in listed:
        name = item.prompt.name
        if name is not None:
            if name in places:
                problems.append(
                    f"{item.place}: name: {quoted(name)} is taken by {places[name]}: give each its own"
                )
            places.setdefault(name, item.place)
    return problems
