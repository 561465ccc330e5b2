"""Lists of prompts as people and programs write them: lines, tables and JSON become rows."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import PurePath
from typing import Any

from prefect_nanobanana._common.characters import quoted
from prefect_nanobanana.batch._json import LINE_END, json_rows
from prefect_nanobanana.batch._parquet import ParquetRows
from prefect_nanobanana.errors import MAX_PROBLEMS, InvalidInput
from prefect_nanobanana.models import ImagePrompt

COLUMNS = tuple(ImagePrompt.model_fields)
_OTHER_NAMES = {
    "prompt": "text description caption instruction instructions positive prompts",
    "name": "id title filename file file_name label key slug",
    "aspect_ratio": "aspect ratio aspectratio size format",
    "quantity": "count n number num images num_images number_of_images variants batch_size",
    "model": "engine model_name checkpoint",
    "reference_image_urls": "reference references reference_images reference_image image image_url "
    "image_urls input_image input_images init_image url urls",
}
"""What other tools call a column."""
_SAME = {other: ours for ours, others in _OTHER_NAMES.items() for other in others.split()}
_FORMATS = ".txt, .csv, .tsv, .json, .jsonl, .parquet"
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\0])"?[,;\t|]*', re.IGNORECASE)
_NAMED = re.compile(r"\{([^{}\n]*)\}")
_DELIMITERS = ",;\t|"
PARQUET_ROWS = 100_001
"""So many rows are looked at for the columns that their texts name: a run has no more prompts."""
_PARQUET = (".parquet", ".pq")
_WORKBOOKS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_PACKED = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh91AY&SY")
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_NO_LISTS = {
    r"\s*(<!--((?!-->).)*-->\s*)*<(!doctype\s+html|html|head|body)\b": "is a web page and no list: give "
    "the address of the file itself",
    r"\s*<\?xml\b": "is XML and no list: save it as CSV UTF-8, or give the address of the file itself",
    r"\{\\rtf\d": "is a document with formats: save it as plain text in UTF-8",
    r"%PDF-\d": "is a PDF: save it as plain text in UTF-8",
    r"version https://git-lfs\.": "is what Git LFS keeps in the file's place: fetch it (git lfs pull)",
}
"""What comes under the name of a list, by how it begins."""
_ERRORS = {"#REF!", "#NAME?", "#N/A", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!", "#SPILL!", "#CALC!"}
"""What a spreadsheet saves for a formula that it could not work out, as `- a cat` may look to it."""
_CSV_CURE = "put quotes around the whole cell, and write each that is inside of it twice"


class TableRow(dict[str, Any]):
    """A row of a table, whose columns were checked where they are named."""


Row = tuple[int, Any]
"""A line number, and what is there: a text, or an object with columns."""


def rows_of(name: str, content: bytes, template: str | None = None) -> Iterator[Row]:
    """Read the rows of a list.

    Args:
        name: The file's name, which says what it is.
        content: What is in it.
        template: The text of rows without a prompt, which may be empty; None if rows are no templates.

    Raises:
        InvalidInput: If it cannot be read; names file, line and cure.
    """
    kind = PurePath(name).suffix.lower()
    if kind in _WORKBOOKS or content.startswith((_ZIP, _OLE)):
        raise InvalidInput(f"{name}: is a workbook or an archive: save the sheet as CSV UTF-8")
    if is_parquet(name):
        return _parquet(name, content, template)
    if kind not in _READERS:
        raise InvalidInput(f"{name}: cannot be read as prompts: use a {_FORMATS} file")
    if content.startswith(_PACKED):
        raise InvalidInput(f"{name}: is an archive: unpack it, or pack it with gzip")
    encoding = next((told for mark, told in _MARKS if content.startswith(mark)), "UTF-8")
    start = content[:5000].decode(encoding, "replace").lstrip("\ufeff")
    for begins, told in _NO_LISTS.items():
        if re.match(begins, start, re.IGNORECASE | re.DOTALL):
            raise InvalidInput(f"{name}: {told}")
    return _READERS[kind](name, _decoded(name, content, encoding), template)


def is_parquet(name: str) -> bool:
    """Whether a list has rows without lines."""
    return PurePath(name).suffix.lower() in _PARQUET


def unknown_column(column: str) -> str:
    """Say that there is no such column, and which may be meant."""
    bare = column.strip().lower().replace(" ", "_").replace("-", "_")[:80]
    near = [_SAME[bare]] if bare in _SAME else difflib.get_close_matches(bare, COLUMNS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no column {quoted(column)}: {hint}the columns are {', '.join(COLUMNS)}"


def _decoded(name: str, content: bytes, encoding: str) -> str:
    try:
        text = content.decode(encoding).lstrip("\ufeff")  # some programs add a mark to one that is there
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(encoding, "ignore")
        line = len(LINE_END.findall(before)) + 1
        raise InvalidInput(f"{name}, line {line}: is not {encoding}: save the file as UTF-8") from None
    if "\0" in text[:2] and text.count("\0", 0, 100) * 3 >= len(text[:100]):
        raise InvalidInput(f"{name}, line 1: is UTF-16 without a mark that says so: save it as UTF-8")
    return text


def _lines(name: str, text: str, template: str | None) -> Iterator[Row]:
    if _is_table(LINE_END.split(text.lstrip(), 1)[0]):
        yield from _table(name, text, template)
        return
    for number, line in enumerate(LINE_END.split(text), 1):
        bare = line.lstrip("\ufeff")  # where files with marks were put together
        if bare.strip() and bare.strip() != "#" and not bare.startswith("# "):
            yield number, line


def _is_table(first_line: str) -> bool:
    """Whether lines are the rows of a table, as Excel's "Unicode Text" and renamed CSV are."""
    cells = first_line.split("\t")
    if "prompt" in cells[1:] or (cells[0] == "prompt" and len(cells) > 1):
        return True
    if _SEPARATOR_LINE.fullmatch(first_line.strip()):
        return True
    names = [[cell.strip(' "').lower() for cell in first_line.split(d)] for d in _DELIMITERS]
    return any(len(found) > 1 and "prompt" in found and {*COLUMNS, ""} >= {*found} for found in names)


def _table(name: str, text: str, template: str | None) -> Iterator[Row]:
    lines = io.StringIO(text, newline="")
    skipped, start, delimiter = 0, 0, ""
    while line := lines.readline():
        told = _SEPARATOR_LINE.fullmatch(line.strip("\r\n "))
        if told is not None:
            delimiter = told[1]
        elif line.strip(f'{_DELIMITERS}" \r\n'):
            break
        skipped, start = skipped + 1, lines.tell()
    lines.seek(start)
    place = skipped + 1
    reader = csv.reader(lines, delimiter=delimiter or _delimiter(name, line), strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        while columns and not columns[-1]:
            columns.pop()  # Excel saves cells that were emptied
        # A column of the list's own is one that its texts name.
        named = {name.strip() for name in _NAMED.findall(text)} if template is None else {*columns}
        own = named.intersection(columns) - {""}
        _check_columns(f"{name}, line {place}", columns, own, has_text=bool(template))
        place = skipped + reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield place, _row(f"{name}, line {place}", columns, cells)
            place = skipped + reader.line_num + 1
    except csv.Error as error:  # quotes that nothing closes reach to the end: the row's beginning helps
        raise InvalidInput(f"{name}, line {place}: is not CSV ({error}): {_CSV_CURE}") from None


def _delimiter(name: str, header: str) -> str:
    """What separates the columns that there are: spreadsheets in much of Europe take semicolons."""

    def known(delimiter: str) -> int:
        return sum(cell.strip(' "\r\n') in COLUMNS for cell in header.split(delimiter))

    usual = _DELIMITERS if name.lower().endswith((".csv", ".txt")) else "\t"
    return max(usual, key=lambda delimiter: (known(delimiter), header.count(delimiter)))


def _check_columns(place: str, columns: list[str], own: set[str], *, has_text: bool) -> None:
    if not columns:
        return  # an empty file, which is an empty list
    known = {"", *COLUMNS, *own}
    unknown = [column for column in columns if column not in known]
    problems = [unknown_column(column) for column in unknown[:MAX_PROBLEMS]]
    if len(unknown) > MAX_PROBLEMS:
        problems[-1] = f"there are {len(unknown)} such columns: name them in the first line"
    counts, ours = Counter(columns), (*COLUMNS, *sorted(own.difference(COLUMNS)))
    problems += [f"the column {c!r} is there twice: remove one" for c in ours if counts[c] > 1]
    if "prompt" not in columns and not problems and not has_text:
        problems = ["there is no column 'prompt': name the columns in the first line"]
    if problems:
        raise InvalidInput(*[f"{place}: {problem}" for problem in problems])


def _row(place: str, columns: list[str], cells: list[str]) -> TableRow:
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise InvalidInput(
            f"{place}: has {len(cells)} cells for {len(columns)} columns: put quotes around text with "
            "commas, and no blank before the quotes"
        )
    row = TableRow(prompt="")
    for column, cell in zip(columns, map(str.strip, cells), strict=False):
        if cell and not column:
            raise InvalidInput(f"{place}: {quoted(cell, 40)} is in a column without a name: give it one")
        if cell in _ERRORS:
            raise InvalidInput(f"{place}: {column}: {cell} is a formula's error: write the text itself")
        if cell or (column and column not in COLUMNS):
            row[column] = cell.split() if column == "reference_image_urls" else cell or None
    return row


def _parquet(name: str, content: bytes, template: str | None) -> Iterator[Row]:
    """Rows with the columns that are ours, and those that a text names."""
    file = ParquetRows(name, content)
    ours = [column for column in file.columns if column in COLUMNS]
    others = {*file.columns}.difference(COLUMNS)
    named = {found.strip() for found in _NAMED.findall(template or "")}
    texts = file.texts(ours)
    if others and texts:
        first = islice(file.values(texts), PARQUET_ROWS)
        found = (str(value) for _, row in first for value in row.values() if value)
        named |= {each.strip() for text in found for each in _NAMED.findall(text)}
    own = named & others
    _check_columns(name, file.columns, own if template is None else others, has_text=bool(template))
    read = [*ours, *(column for column in file.columns if column in own)]
    file.check(read)
    for number, values in file.values(read):
        row = {c: v for c, v in values.items() if v is not None or c not in COLUMNS}
        yield number, TableRow({"prompt": "", **row})


_READERS: dict[str, Callable[[str, str, str | None], Iterator[Row]]] = {
    ".txt": _lines,
    ".csv": _table,
    ".tsv": _table,
    ".tab": _table,
    ".json": json_rows,
    ".jsonl": json_rows,
    ".ndjson": json_rows,
}
