"""More of what people call a list: doubled marks, renamed files, errors of spreadsheets, nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lists import gather, refused

READ: dict[str, tuple[str, str | bytes, list[tuple[int, str]]]] = {
    # Marks and encodings.
    "two marks": ("p.csv", "\ufeff\ufeffprompt,name\na,n\n", [(2, "a")]),
    "two marks, lines": ("p.txt", "\ufeff\ufeff# x\na", [(2, "a")]),
    "two marks, JSON": ("p.json", '\ufeff\ufeff["a"]', [(1, "a")]),
    "two marks, sep=": ("p.csv", "\ufeff\ufeffsep=;\nprompt;name\na;n\n", [(3, "a")]),
    "marks of files put together": ("p.txt", "a\n\ufeff# x\n\ufeff\nb", [(1, "a"), (4, "b")]),
    "UTF-32": ("p.csv", "prompt\nä".encode("utf-32"), [(2, "ä")]),
    "UTF-32, the other way": (
        "p.txt",
        b"\0\0\xfe\xff" + "ä\nb".encode("utf-32-be"),
        [(1, "ä"), (2, "b")],
    ),
    # Tables that are called text.
    "CSV": ("p.txt", "name,prompt\nn,a b\n", [(2, "a b")]),
    "semicolons": ("p.txt", "\nprompt;name\r\na, b;n\r\n", [(3, "a, b")]),
    "quoted": ("p.txt", '"prompt","name"\n"a, b",n\n', [(2, "a, b")]),
    "sep=": ("p.txt", "sep=|\nprompt|name\na|n\n", [(3, "a")]),
    # And what only looks like one.
    "a sentence": ("p.txt", "a prompt, name it\nprompt", [(1, "a prompt, name it"), (2, "prompt")]),
    "ratios that are no times": (
        "p.csv",
        "prompt,aspect_ratio\na,9:16\nb,16:10\n",
        [(2, "a"), (3, "b")],
    ),
    "a dot": ("p.txt", ".\n?", [(1, "."), (2, "?")]),
    "an emoji of many parts": (
        "p.txt",
        "\U0001f469\u200d\U0001f680",
        [(1, "\U0001f469\u200d\U0001f680")],
    ),
    "newer than this Python": ("p.txt", "\U0001faea", [(1, "\U0001faea")]),
    "a formula that is text": ("p.csv", "prompt\n=1+1\n#1 fan\n", [(2, "=1+1"), (3, "#1 fan")]),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_read(tmp_path: Path, case: str) -> None:
    name, content, expected = READ[case]
    found = [(item.place, item.prompt.prompt) for item in gather(tmp_path, name, content)]
    assert found == [(f"{name}, line {line}", text) for line, text in expected]


UNSEEN = "line 2: prompt: holds nothing that can be seen: say what to draw"
CSV = "put quotes around the whole cell"
JSON = "write double quotes around texts, commas between values and none behind the last, no comments"
REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    # Encodings.
    "UTF-16 without a mark": ("p.csv", "prompt\na".encode("utf-16-le"), "is UTF-16 without a mark"),
    "UTF-16 without a mark, the other way": ("p.json", '["a"]'.encode("utf-16-be"), "save it as UTF-8"),
    "UTF-16 that ends early": (
        "p.txt",
        "a\nbĊ\nc".encode("utf-16") + b"x",
        "line 3: is not UTF-16: save",
    ),
    "Windows": (
        "p.csv",
        "prompt\n“a”".encode("cp1252"),
        "p.csv, line 2: is not UTF-8: save the file as UTF-8",
    ),
    # Other files under a list's name.
    "7-Zip": ("p.csv", b"7z\xbc\xaf\x27\x1c\0", "p.csv: is an archive: unpack it"),
    "xz": ("p.txt", b"\xfd7zXZ\0\0", "p.txt: is an archive: unpack it"),
    "bzip2": ("p.json", b"BZh91AY&SY\0", "p.json: is an archive"),
    "rich text": (
        "p.txt",
        "{\\rtf1\\ansi\\f0 a cat\\\n}",
        "p.txt: is a document with formats: save it as plain",
    ),
    "PDF": ("p.txt", b"%PDF-1.7\n%\xe2\xe3\n1 0 obj", "p.txt: is a PDF"),
    "Git LFS": (
        "p.txt",
        "version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
        "is what Git LFS keeps",
    ),
    "a store's error": (
        "p.txt",
        '<?xml version="1.0"?>\n<Error><Code>AccessDenied',
        "p.txt: is XML and no list",
    ),
    "a page with a comment": ("p.txt", "<!-- saved -->\n <html lang=en>\n", "p.txt: is a web page"),
    "a page without a type": ("p.csv", "<head><title>x", "p.csv: is a web page"),
    # Tables.
    "an open quote": (
        "p.csv",
        'prompt,name\na,n\n"b,m\nc,o\nd,p\n',
        f"p.csv, line 3: is not CSV (unexpected end of data): {CSV}",
    ),
    "an open quote, far from the end": (
        "p.csv",
        'prompt\n"b\n' + "c\n" * 100_000,
        "p.csv, line 2: is not CSV",
    ),
    "text behind a quote": (
        "p.csv",
        'prompt\na\n"b" c\n',
        f"p.csv, line 3: is not CSV (',' expected after '\"'): {CSV}",
    ),
    "an open quote in the header": ("p.csv", '\n\nprompt,"name\na,b\n', "p.csv, line 3: is not CSV"),
    "sep= a quote": ("p.csv", 'sep="\nprompt\na\n', "p.csv, line 1: there is no column"),
    "blanks before quotes": (
        "p.csv",
        'name, prompt\nn, "a, b"\n',
        "line 2: has 3 cells for 2 columns: put quotes around text with commas, and no blank before",
    ),
    "another column in text": (
        "p.txt",
        "Prompt,Name\na,b\n",
        "line 1: there is no column 'Prompt': did you mean prompt?",
    ),
    "a formula's error": (
        "p.csv",
        "prompt,name\na,n\n#NAME?,m\n",
        "line 3: prompt: #NAME? is a formula's error: write the text itself",
    ),
    "an error elsewhere": (
        "p.tsv",
        "prompt\tquantity\na\t#N/A\n",
        "line 2: quantity: #N/A is a formula's error",
    ),
    "a ratio that is a time": (
        "p.csv",
        "prompt,aspect_ratio\na,16:09\n",
        "line 2: aspect_ratio: '16:09' is a time, as spreadsheets make of 16:9",
    ),
    "a time with seconds": (
        "p.csv",
        "prompt,aspect_ratio\na,09:16:00\n",
        "line 2: aspect_ratio: '09:16:00' is a time",
    ),
    "a time of the morning": (
        "p.json",
        '[{"prompt": "a", "aspect_ratio": "1:01 AM"}]',
        "line 1: aspect_ratio: '1:01 AM' is a time",
    ),
    # JSON.
    "a comma behind the last": (
        "p.json",
        '["a",]',
        f"line 1: is not JSON: Expecting value: {JSON}",
    ),
    "single quotes": ("p.json", "['a']", "write double quotes around texts"),
    "a comment": (
        "p.jsonl",
        '"a"\n// b\n',
        f"p.jsonl, line 2: is not JSON: Expecting value: {JSON}",
    ),
    "a list in an object": (
        "p.json",
        '{"version": 1, "data": ["a"]}',
        "p.json, line 1: a row must be a text or an object: give the list alone",
    ),
    # Prompts that are none.
    "no width": ("p.txt", "a\n\u200b", UNSEEN),
    "a mark": ("p.csv", "prompt,name\n\ufeff,n\n", UNSEEN),
    "controls of direction": ("p.jsonl", '"a"\n"\u200f\u202b"', UNSEEN),
    "marks on nothing": ("p.txt", "a\n\u0301\u0302", UNSEEN),
    "joiners": ("p.txt", "a\n\u200d\ufe0f", UNSEEN),
    "blank letters": ("p.txt", "a\n\u3164\u2800", UNSEEN),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    name, content, said = REFUSED[case]
    assert said in refused(tmp_path, name, content)


@pytest.mark.parametrize("name", [os.fsdecode(b"\xff.txt"), "x" * 200 + ".txt", "a\tb\nc.txt"])
def test_an_odd_name_can_be_written_in_one_short_line(tmp_path: Path, name: str) -> None:
    text = refused(tmp_path, name, "ok\nx\0")
    assert ".txt, line 2: prompt: character 2" in text
    assert len(text.encode().splitlines()[0]) < 300
