"""Lists as people, spreadsheets and programs write them."""

from __future__ import annotations

import gzip
import io
import json
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lists import NO_WEB, gather, no_s3, refused

from prefect_nanobanana import ImagePrompt, InvalidInput
from prefect_nanobanana.batch._prompts import MAX_PROMPTS, gather_prompts
from prefect_nanobanana.batch._sources import MAX_LIST_BYTES

_gzip = partial(gzip.compress, mtime=0)  # the same bytes in each of pytest's processes
READ: dict[str, tuple[str, str | bytes, list[tuple[int, str]]]] = {
    # Tables.
    "sep=": ("p.csv", "sep=;\nprompt;name\na, b;n\n", [(3, "a, b")]),
    "sep= in quotes": ("p.csv", '"sep=;"\r\nprompt;name\r\na;n\r\n', [(3, "a")]),
    "sep= with a mark": ("p.csv", "\ufeffsep=|\nprompt|name\na|n\n", [(3, "a")]),
    "sep= a tab": ("p.csv", "SEP=\t\nprompt\tname\na\tn\n", [(3, "a")]),
    "tabs": ("p.csv", "prompt\tname\na, b; c\tn\n", [(2, "a, b; c")]),
    "tabs, named so": ("p.tsv", "name\tprompt\nn\ta\n", [(2, "a")]),
    "tabs, one column": ("p.tsv", "prompt\na, b\n", [(2, "a, b")]),
    "bars": ("p.csv", "prompt|name\na, b|n\n", [(2, "a, b")]),
    "semicolons, a comma in the header": ("p.csv", '"prompt";"name"\n"a, b";n\n', [(2, "a, b")]),
    "blank lines first": ("p.csv", "\n\r\n  \nprompt,name\na,n\n", [(5, "a")]),
    "blank rows first": ("p.csv", ',,\n;;\n"",""\nprompt,name\na,n\n', [(5, "a")]),
    "blank rows, then sep=": ("p.csv", "\nsep=,\n\nprompt\na\n", [(5, "a")]),
    "empty cells at the end": (
        "p.csv",
        "prompt,name,,\na,n,,\nb,m,,,,\nc,\n",
        [(2, "a"), (3, "b"), (4, "c")],
    ),
    "empty cells in rows only": ("p.csv", "prompt\na,,\nb, ,\t\n", [(2, "a"), (3, "b")]),
    "an empty column between": ("p.csv", "prompt,,name\na,,n\n", [(2, "a")]),
    "rows of separators": ("p.csv", "prompt,name\na,n\n,\n\nb,m\n,,\n", [(2, "a"), (5, "b")]),
    "lines of an old Mac": ("p.csv", "prompt,name\ra,n\rb,m\r", [(2, "a"), (3, "b")]),
    "lines in cells": ("p.csv", 'prompt,name\n"a\nb",n\nc,m\n', [(2, "a\nb"), (4, "c")]),
    "Excel's Unicode": ("p.txt", "prompt\tname\r\nä, b\tn\r\n".encode("utf-16"), [(2, "ä, b")]),
    "UTF-16, the other way": ("p.csv", b"\xfe\xff" + "prompt\nä".encode("utf-16-be"), [(2, "ä")]),
    # Lines.
    "form feed": ("p.txt", "a\x0cb\nc", [(1, "a\x0cb"), (2, "c")]),
    "vertical tab": ("p.txt", "a\x0bb\n", [(1, "a\x0bb")]),
    "line separators": ("p.txt", "a\u2028b\u2029c\x85d\n\ne", [(1, "a\u2028b\u2029c\x85d"), (3, "e")]),
    "CR only": ("p.txt", "a\rb\r\rc", [(1, "a"), (2, "b"), (4, "c")]),
    "mixed ends": ("p.txt", "a\r\nb\rc\nd", [(1, "a"), (2, "b"), (3, "c"), (4, "d")]),
    "comments": ("p.txt", "#\n# x\n #\t\r\n#1 fan\n##\n", [(4, "#1 fan"), (5, "##")]),
    "a mark": ("p.txt", "\ufeff# x\na", [(2, "a")]),
    # JSON.
    "array of texts": ("p.json", '["a", "b"]', [(1, "a"), (1, "b")]),
    "array of objects": (
        "p.json",
        '\n[\n {"prompt": "a"},\n\n {"prompt": "b",\n "quantity": 2}]\n',
        [(3, "a"), (5, "b")],
    ),
    "array of both": ("p.json", '["a",\r\n{"prompt": "b"}\r\n,"c"]', [(1, "a"), (2, "b"), (3, "c")]),
    "array, with a mark": ("p.json", '\ufeff["a"]', [(1, "a")]),
    "array, CR only": ("p.json", '["a",\r"b"\r]', [(1, "a"), (2, "b")]),
    "JSON Lines by that name": ("p.json", '{"prompt": "a"}\n"b"\n', [(1, "a"), (2, "b")]),
    "an array by the other": ("p.jsonl", '["a",\n"b"]', [(1, "a"), (2, "b")]),
    "ndjson": ("p.ndjson", '\n"a"\n\n"b\u2028c"\n', [(2, "a"), (4, "b\u2028c")]),
    "one object on many lines": ("p.json", '{\n"prompt": "a"\n}', [(1, "a")]),
    # Packed.
    "gzip by name": ("p.txt.gz", _gzip(b"a\nb"), [(1, "a"), (2, "b")]),
    "gzip by content": ("p.csv", _gzip(b"prompt\na"), [(2, "a")]),
    "gzip twice": ("p.csv", _gzip(_gzip(b"prompt\na")), [(2, "a")]),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_read(tmp_path: Path, case: str) -> None:
    name, content, expected = READ[case]
    listed = gather(tmp_path, name, content)
    bare = name.removesuffix(".gz")
    assert [(i.place, i.prompt.prompt) for i in listed] == [
        (f"{bare}, line {line}", text) for line, text in expected
    ]


def _workbook() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    return file.getvalue()


DEEP = 200_000
EMPTY = "there are no prompts in it: add some"
REFUSED: dict[str, tuple[str, str | bytes, list[str]]] = {
    # Nothing in it.
    "comments only": ("p.txt", "# a\n#\n", ["p.txt: " + EMPTY]),
    "blank only": ("p.txt", "\n \n", ["there are no prompts"]),
    "a header only": ("p.csv", "prompt,name\n", ["p.csv: " + EMPTY]),
    "a header and blanks": ("p.csv", "prompt,name\n,\n;\n".replace(";\n", ",,\n"), [EMPTY]),
    "an empty array": ("p.json", " [ ] ", ["p.json: " + EMPTY]),
    "separators only": ("p.csv", ";;\n;;\n", [EMPTY]),
    # What is no list.
    "xlsx": ("p.xlsx", _workbook(), ["p.xlsx: is a workbook or an archive: save the sheet as CSV"]),
    "xlsx, renamed": ("p.csv", _workbook(), ["p.csv: is a workbook"]),
    "xls, renamed": ("p.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ["p.csv: is a workbook"]),
    "ods": ("p.ods", b"", ["p.ods: is a workbook"]),
    "a web page": ("p.csv", "\n<!DOCTYPE html><html>x", ["p.csv: is a web page and no list"]),
    "a web page of lines": ("p.txt", "<html>\n<body>", ["is a web page"]),
    "a picture": ("p.png", b"\x89PNG", ["p.png: cannot be read as prompts: use a .txt, .csv, .tsv"]),
    "no suffix": ("prompts", "a", ["prompts: cannot be read as prompts"]),
    # Columns.
    "id": ("p.csv", "id,prompt\n1,a\n", ["line 1: there is no column 'id': did you mean name?"]),
    "title": ("p.csv", "Title,prompt\nx,a\n", ["'Title': did you mean name?"]),
    "other tools' names": (
        "p.csv",
        "text,Aspect Ratio,n,image_url\na,1:1,1,x\n",
        ["'text': did you mean prompt?", "mean aspect_ratio?", "mean quantity?", "mean reference_image"],
    ),
    "id in JSON": (
        "p.json",
        '[{"id": 1, "prompt": "a"}]',
        ["line 1: there is no column 'id': did you mean n"],
    ),
    "under a header that is late": ("p.csv", "\n\nnmae,prompt\n", ["line 3: there is no column 'nmae'"]),
    "a cell under no name": ("p.csv", "prompt,,name\na,x,n\n", ["line 2: 'x' is in a column without a"]),
    "more cells": ("p.csv", "prompt,name,\na,b,c\n", ["p.csv, line 2: has 3 cells for 2 columns"]),
    # Control characters.
    "NUL": (
        "p.txt",
        "ok\na\0b\n",
        ["p.txt, line 2: prompt: character 2 is the control character U+0000"],
    ),
    "escape": (
        "p.csv",
        "prompt,name\na,\x1b[31mn\n",
        ["line 2: name: character 1 is the control character U+001B"],
    ),
    "DEL in JSON": (
        "p.jsonl",
        '"a"\n"b\\u007f"',
        ["line 2: prompt: character 2 is the control character U+007F"],
    ),
    "C1": ("p.json", '["\\u009b31m"]', ["line 1: prompt: character 1 is the control character U+009B"]),
    "bell in a model": (
        "p.json",
        '[{"prompt": "a", "model": "m\\u0007"}]',
        ["line 1: model: character 2"],
    ),
    "escape in a column": ("p.csv", "prompt,\x1b]0;x\x07\na,b\n", ["no column '\\x1b]0;x\\x07'"]),
    "UTF-16 without a mark": (
        "p.txt",
        "ab".encode("utf-16-le"),
        ["p.txt, line 1: is UTF-16 without a mark that says so: save it as UTF-8"],
    ),
    # JSON.
    "very deep": ("p.json", "[" * DEEP + "]" * DEEP, ["p.json, line 1: is nested too deeply"]),
    "very deep, later": ("p.jsonl", '"a"\n' + '{"a":' * DEEP, ["p.jsonl, line 2: is nested too deeply"]),
    "very deep in an array": (
        "p.json",
        '["a",\n' + "[" * DEEP,
        ["p.json, line 2: is nested too deeply"],
    ),
    "deep enough": ("p.json", "[[[[]]]]", ["line 1: a row must be a text in quotes or an object"]),
    "a long number": ("p.json", '["a",\n' + "1" * 5000 + "]", ["p.json, line 2: Exceeds the limit"]),
    "an object of lists": (
        "p.json",
        '{"prompts": ["a"]}',
        ["p.json, line 1: a row must be a text or an object: give the list alone"],
    ),
    "a comma too many": ("p.json", '["a",\n]', ["line 2: is not JSON: Expecting value"]),
    "a comma too few": ("p.json", '["a"\n"b"]', ["line 2: is not JSON: a comma or the ]"]),
    "no end": ("p.json", '["a",\n"b"\n', ["is not JSON: a comma or the ] at the end is missing"]),
    "more than an end": ("p.json", '["a"]\n["b"]', ["line 2: is not JSON: nothing may follow"]),
    "an end only": ("p.json", "]", ["line 1: is not JSON"]),
    "a field twice": (
        "p.json",
        '[\n{"prompt": "a", "prompt": "b"}]',
        ["line 2: 'prompt' is there twice"],
    ),
    "not a number": ("p.json", '[{"prompt": "a", "quantity": NaN}]', ["line 1: quantity:"]),
    # Packed.
    "gzip, cut": ("p.txt.gz", _gzip(b"abc" * 99)[:-12], ["p.txt.gz: is cut short"]),
    "gzip, damaged": ("p.txt.gz", _gzip(b"abc")[:10] + b"\xff" * 9, ["p.txt.gz: is damaged"]),
    "gzip, two": ("p.txt.gz", _gzip(b"a") + _gzip(b"b"), ["or more than one"]),
    "gzip, three layers": ("p.txt", _gzip(_gzip(_gzip(b"a"))), ["is not UTF-8"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    name, content, said = REFUSED[case]
    text = refused(tmp_path, name, content)
    for words in said:
        assert words in text


@pytest.mark.parametrize(
    "row", ["a\0b", ImagePrompt(prompt="a", name="\x1b[2J"), ImagePrompt(prompt="\x07")]
)
def test_the_parameter_is_checked_as_files_are(row: Any) -> None:
    with pytest.raises(
        InvalidInput, match=r"prompts, row 2: (prompt|name): character \d is the control"
    ):
        gather_prompts(["ok", row], None, no_s3, NO_WEB)


def test_a_file_without_prompts_is_told_beside_others(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there are no prompts in it"):
        gather(tmp_path, "p.txt", "# nothing\n", "a cat")
    assert len(gather(tmp_path, "p.txt", "", "a cat")) == 1


BOMBS: dict[str, Callable[[int], bytes]] = {
    "gzip": lambda size: _gzip(b"a\n" * (size // 2)),
    "gzip twice": lambda size: _gzip(_gzip(b"a\n" * (size // 2))),
    "plain": lambda size: b"a\n" * (size // 2),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bytes_are_bounded_after_unpacking(tmp_path: Path, kind: str) -> None:
    with MAX_LIST_BYTES.use(1_000_000):
        text = refused(tmp_path, "p.txt", BOMBS[kind](1_000_002))
    assert text == "p.txt: is larger than 1000000 bytes: split it"
    assert len(gather(tmp_path, "q.txt", BOMBS[kind](100_000))) == 50_000


@pytest.mark.parametrize("kind", ["gzip", "gzip twice"])
def test_memory_is_bounded_while_unpacking(tmp_path: Path, kind: str) -> None:
    bomb = BOMBS[kind](200_000_000)
    tracemalloc.start()
    try:
        with MAX_LIST_BYTES.use(1_000_000):
            assert "is larger than" in refused(tmp_path, "p.txt", bomb)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a\x1b[31mb.txt", "a\x9bb.txt", "a\x07.txt"])
def test_a_files_name_is_shown_and_not_obeyed(tmp_path: Path, name: str) -> None:
    text = refused(tmp_path, name, "ok\nx\0")
    assert text.startswith("a\\x")
    assert ".txt, line 2: prompt: character 2" in text


def test_prompts_are_bounded(tmp_path: Path) -> None:
    began = time.monotonic()
    assert MAX_PROMPTS.get() == 100_000
    text = refused(tmp_path, "p.txt", "a\n" * 300_000)
    assert text == "p.txt, line 100001: there are more than 100000 prompts: split the list"
    with (
        MAX_PROMPTS.use(3),
        pytest.raises(InvalidInput, match="prompts, row 4: there are more than 3 prompts"),
    ):
        gather_prompts(["a"] * 300_000, None, no_s3, NO_WEB)
    with (
        MAX_PROMPTS.use(3),
        pytest.raises(InvalidInput, match=r"p\.csv, line 3: there are more than 3 prompts"),
    ):
        gather(tmp_path, "p.csv", "prompt\na\nb\n", "c", "d")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", ",".join(f"column_{n}_{'x' * 100}" for n in range(20_000)) + "\n"),
        ("p.json", json.dumps([{f"column {n} {'x' * 100}": 1 for n in range(20_000)}])),
        ("p.jsonl", "\n".join(json.dumps({"prompt": "a", "x" * 10_000: 1}) for _ in range(2_000))),
        ("p.csv", "prompt,quantity\n" + "a,9\n" * 20_000),
        ("p.csv", f"prompt,{'y' * 120_000}\n"),
    ],
)
def test_problems_are_bounded(tmp_path: Path, name: str, content: str) -> None:
    began = time.monotonic()
    assert len(refused(tmp_path, name, content).splitlines()) <= 22
    assert time.monotonic() - began < 15
