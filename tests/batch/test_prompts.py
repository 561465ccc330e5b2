"""Lists of prompts: read from everywhere, and checked whole before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lists import NO_WEB, no_s3

from prefect_nanobanana import ImagePrompt, InvalidInput
from prefect_nanobanana.batch._prompts import Listed, gather_prompts


def _gather(source: Any, given: Any = ()) -> list[Listed]:
    return gather_prompts(given, None if source is None else str(source), no_s3, NO_WEB)


def _file(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_txt(tmp_path: Path) -> None:
    path = _file(tmp_path, "p.txt", "# mine\na cat\n\n  a dog, sitting  \r\n#nofilter sunset\n")
    listed = _gather(path, given=["first"])
    assert [i.prompt.prompt for i in listed] == [
        "first",
        "a cat",
        "a dog, sitting",
        "#nofilter sunset",
    ]
    assert [i.place for i in listed][:3] == ["prompts, row 1", "p.txt, line 2", "p.txt, line 4"]


CSV = (
    "prompt,name,quantity,reference_image_urls,model,aspect_ratio\n"
    '"a cat, sitting\non two lines",cat,2,https://e/1 https://e/2,m,16:9\n'
    "\n"
    "a dog,,,,,\n"
    "a bird\n"
)


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        CSV.replace("\n", "\r\n"),
        "\ufeff" + CSV,
        CSV.replace(",", ";").replace("a cat;", "a cat,"),
    ],
    ids=["plain", "windows", "with a mark", "semicolons"],
)
def test_csv(tmp_path: Path, content: str) -> None:
    listed = _gather(_file(tmp_path, "p.csv", content))
    cat, dog, bird = (item.prompt for item in listed)
    assert " ".join(cat.prompt.split()) == "a cat, sitting on two lines"
    assert (cat.name, cat.quantity, cat.model, cat.aspect_ratio) == ("cat", 2, "m", "16:9")
    assert cat.reference_image_urls == ["https://e/1", "https://e/2"]
    assert dog == ImagePrompt(prompt="a dog")
    assert bird == ImagePrompt(prompt="a bird")
    assert [item.place for item in listed] == ["p.csv, line 2", "p.csv, line 5", "p.csv, line 6"]


def test_jsonl(tmp_path: Path) -> None:
    lines = ['"a cat"', "", json.dumps({"prompt": "a dog\u2028x", "quantity": 2}, ensure_ascii=False)]
    listed = _gather(_file(tmp_path, "p.jsonl", "\n".join(lines)))
    assert [i.prompt.prompt for i in listed] == ["a cat", "a dog\u2028x"]
    assert listed[1].prompt.quantity == 2


def test_the_shipped_list_is_good() -> None:
    path = Path(__file__).parents[2] / "flows/prompts/postcards.csv"
    listed = [item.prompt for item in _gather(path)]
    assert len(listed) >= 24
    assert any(p.reference_image_urls for p in listed)
    assert any(p.quantity for p in listed)


WRONG: dict[str, tuple[str, str | bytes, str]] = {
    "no rows": ("p.txt", "\n# nothing\n", "there are no prompts"),
    "empty csv": ("p.csv", "", "there are no prompts"),
    "unknown kind": ("p.yaml", "x", r"p\.yaml: cannot be read as prompts: use a \.txt, \.csv, \.tsv"),
    "wrong column": (
        "p.csv",
        "promt,qty\na,1\n",
        r"line 1: there is no column 'promt': did you mean prompt\?",
    ),
    "no prompt column": ("p.csv", "name\nx\n", "no column 'prompt'"),
    "an empty cell": (
        "p.csv",
        "prompt,name\nok,a\n,b\n",
        r"p\.csv, line 3: prompt: the prompt is empty",
    ),
    "quantity is no number": ("p.csv", "prompt,quantity\na,many\n", r"line 2: quantity: .*integer"),
    "quantity too high": (
        "p.csv",
        "prompt,quantity\na,9\n",
        r"line 2: quantity: .*less than or equal to 4",
    ),
    "bad reference": ("p.csv", "prompt,reference_image_urls\na,cat.png\n", "is not a web address"),
    "unquoted comma": ("p.csv", "prompt,name\na cat, sitting,b\n", "3 cells for 2 columns: put quotes"),
    "a column twice": ("p.csv", "prompt,prompt\na,b\n", "the column 'prompt' is there twice"),
    "half a character": (
        "p.jsonl",
        '{"prompt": "a \\ud83d cat", "name": "n"}',
        "line 1: prompt: character 3 is half of one",
    ),
    "open quote": ("p.csv", 'prompt\n"a cat\n', "is not CSV"),
    "too long": ("p.txt", "x" * 8001, "8001 characters: shorten it to at most 8000"),
    "not utf-8": ("p.csv", "prompt\na\nKäse\n".encode("latin-1"), "line 3: is not UTF-8: save"),
    "not json": ("p.jsonl", '"a"\n{bad\n', r"p\.jsonl, line 2: is not JSON"),
    "json of no kind": ("p.jsonl", "7\n", "line 1: a row must be a text in quotes or an object"),
    "json, unknown field": ("p.jsonl", '{"prompt": "a", "size": 1}', "no column 'size'"),
    "json without prompt": ("p.jsonl", '{"name": "a"}', "prompt: is missing"),
    "twice named": ("p.csv", "prompt,name\na,x\nb,x\n", r"line 3: name: 'x' is taken by p\.csv, line 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_file_line_and_cure(tmp_path: Path, case: str) -> None:
    name, content, says = WRONG[case]
    with pytest.raises(InvalidInput, match=says):
        _gather(_file(tmp_path, name, content))


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    rows = "".join("a,9\n" for _ in range(30))
    with pytest.raises(InvalidInput) as caught:
        _gather(_file(tmp_path, "p.csv", "prompt,quantity\n" + rows), given=[""])
    text = str(caught.value)
    assert text.startswith("21 problems:\n- prompts, row 1: ")
    assert "p.csv, line 20:" in text
    assert text.endswith("and 11 more")


def test_no_prompts_at_all() -> None:
    with pytest.raises(InvalidInput, match="`prompts_from`"):
        _gather(None)
    with pytest.raises(InvalidInput, match="`prompts_from`"):
        _gather("  ")
