"""Lists of prompts: from a parameter or a file, checked whole before anything is spent."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from prefect_nanobanana._common.http import USER_AGENT
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.models import ImagePrompt, describe_errors

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_PROBLEMS = 20
COLUMNS = tuple(ImagePrompt.model_fields)
_FORMATS = (".txt", ".csv", ".jsonl")


@dataclass(frozen=True)
class Listed:
    """A prompt and where it stands, for error messages."""

    place: str
    prompt: ImagePrompt


def gather_prompts(
    prompts: Sequence[str | ImagePrompt],
    prompts_from: str | None,
    read_s3: Callable[[str], bytes],
) -> list[Listed]:
    """Gather the prompts of a run and check them all.

    Args:
        prompts: Prompts given as a parameter.
        prompts_from: A `.txt`, `.csv` or `.jsonl` file: a local path, an `s3://` key, an http(s) URL.
        read_s3: Reads an `s3://` address.

    Returns:
        All prompts, those of the parameter first.

    Raises:
        InvalidInput: If anything is wrong with any of them; names each file, line and cure.
    """
    problems: list[str] = []
    listed: list[Listed] = []
    raw: list[tuple[str, Any]] = [(f"prompts, row {n}", p) for n, p in enumerate(prompts, 1)]
    if prompts_from is not None and prompts_from.strip():
        source = prompts_from.strip()
        name = source.split("?")[0].rstrip("/").rpartition("/")[2] or source
        rows = _parse(name, _decode(name, _read(source, read_s3)))
        raw += [(f"{name}, line {line}", row) for line, row in rows]
    for place, row in raw:
        try:
            listed.append(Listed(place, _prompt(row)))
        except ValidationError as error:
            problems += [f"{place}: {text}" for text in describe_errors(error)]
        except InvalidInput as error:
            problems += [f"{place}: {text}" for text in error.problems]
    problems += _twice_named(listed)
    if not raw:
        problems.append(
            "there are no prompts: give some in `prompts`, or a file with some in `prompts_from`"
        )
    if problems:
        more = len(problems) - MAX_PROBLEMS
        shown = problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
        raise InvalidInput(*shown)
    return listed


def _prompt(row: Any) -> ImagePrompt:
    if isinstance(row, ImagePrompt):
        return row
    if isinstance(row, str):
        return ImagePrompt(prompt=row)
    if not isinstance(row, dict):
        raise InvalidInput('a row must be a text in quotes or an object, as {"prompt": "a cat"}')
    unknown = [str(field) for field in row if field not in COLUMNS]
    if unknown:
        raise InvalidInput(*[_unknown(field) for field in unknown])
    if "prompt" not in row:
        raise InvalidInput("prompt: is missing: say what to draw")
    return ImagePrompt.model_validate(row)


def _unknown(field: str) -> str:
    near = difflib.get_close_matches(field.lower(), COLUMNS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no column {field!r}: {hint}the columns are {', '.join(COLUMNS)}"


def _twice_named(listed: list[Listed]) -> list[str]:
    problems, places = [], dict[str, str]()
    for item in listed:
        name = item.prompt.name
        if name is not None:
            if name in places:
                problems.append(
                    f"{item.place}: name: {name!r} is taken by {places[name]}: give each its own"
                )
            places.setdefault(name, item.place)
    return problems


def _read(source: str, read_s3: Callable[[str], bytes]) -> bytes:
    if source.startswith("s3://"):
        content = read_s3(source)
    elif source.lower().startswith(("http://", "https://")):
        content = _fetch(source)
    else:
        path = Path(source).expanduser()
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise InvalidInput(f"{source}: is larger than {MAX_FILE_BYTES} bytes: split it")
            content = path.read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"prompts_from: {source} cannot be read ({error.strerror}): give a path that exists "
                "on the machine that runs the flow, an s3:// address or a web address"
            ) from None
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInput(f"{source.split('?')[0]}: is larger than {MAX_FILE_BYTES} bytes: split it")
    return content


def _fetch(url: str) -> bytes:
    # A signed URL is a secret: errors name its host and path only.
    shown = url.split("?")[0]
    try:
        with httpx.stream(
            "GET", url, headers={"user-agent": USER_AGENT}, follow_redirects=True, timeout=30
        ) as response:
            if response.status_code != 200:
                raise InvalidInput(f"prompts_from: {shown} answered {response.status_code}")
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_FILE_BYTES:
                    break
            return bytes(content)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InvalidInput(f"prompts_from: {shown} cannot be read ({type(error).__name__})") from None


def _decode(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidInput(f"{name}, line {line}: is not UTF-8: save the file as UTF-8") from None


def _parse(name: str, text: str) -> list[tuple[int, Any]]:
    lowered = name.lower()
    if lowered.endswith(".txt"):
        lines = enumerate(text.splitlines(), 1)
        return [(n, line) for n, line in lines if line.strip() and not line.startswith("# ")]
    if lowered.endswith(".jsonl"):
        return list(_parse_jsonl(name, text))
    if lowered.endswith(".csv"):
        return list(_parse_csv(name, text))
    raise InvalidInput(f"{name}: cannot be read as prompts: use a {', '.join(_FORMATS)} file")


def _parse_jsonl(name: str, text: str) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise InvalidInput(f"{name}, line {number}: is not JSON: {error}") from None


def _parse_csv(name: str, text: str) -> Iterator[tuple[int, Any]]:
    header = text.partition("\n")[0]
    # Spreadsheets in much of Europe save with semicolons.
    delimiter = ";" if ";" in header and "," not in header else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        if not columns:
            return  # an empty file, which is an empty list
        unknown = [_unknown(column) for column in columns if column not in COLUMNS]
        unknown += [f"the column {c!r} is there twice" for c in COLUMNS if columns.count(c) > 1]
        if "prompt" not in columns and not unknown:
            unknown = ["there is no column 'prompt': name the columns in the first line"]
        if unknown:
            raise InvalidInput(*[f"{name}, line 1: {text}" for text in unknown])
        start = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) > len(columns):
                    raise InvalidInput(
                        f"{name}, line {start}: has {len(cells)} cells for {len(columns)} columns: "
                        "put quotes around text with commas"
                    )
                yield start, _cells(dict(zip(columns, cells, strict=False)))
            start = reader.line_num + 1
    except csv.Error as error:
        raise InvalidInput(f"{name}, line {reader.line_num}: is not CSV: {error}") from None


def _cells(cells: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": ""}
    for column, cell in cells.items():
        value = cell.strip()
        if column == "prompt":
            row[column] = value
        elif value:
            row[column] = value.split() if column == "reference_image_urls" else value
    return row
