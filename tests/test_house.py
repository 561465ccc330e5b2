"""What keeps the house in order: layers, doors, sizes, no circles, and whose attributes are whose.

Import-linter holds the layers and the doors (`make check`); here is what it has no contract for.
"""

from __future__ import annotations

import ast
import runpy
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from outside_writes import outside_writes

import prefect_nanobanana

NAME = "prefect_nanobanana"
PACKAGE = Path(prefect_nanobanana.__file__).parent
DOORS = {
    **{"client": 5, "slots": 2, "s3": 6, "images": 5, "batch": 6, "budgets": 5, "report": 6},
    **{
        "manifest": 9,
        "statements": 2,
        "picks": 7,
        "derived": 3,
        "retention": 8,
        "descriptions": 7,
        "cli": 1,
    },
}
"""How many names each folder may export at most."""
MODULES = sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_and_classes_fit_on_a_few_screens(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            assert (node.end_lineno or 0) - node.lineno < 250, node.name


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_objects_write_their_own_attributes(path: Path) -> None:
    """Everybody else calls a method of theirs, or makes a new value."""
    assert outside_writes(path.read_text("utf-8"), NAME) == []


@pytest.mark.parametrize(("room", "most"), DOORS.items())
def test_a_door_is_small(room: str, most: int) -> None:
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8"))
    (names,) = [ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)]
    assert ast.get_docstring(tree), "a door says what its room is for"
    assert len(names) <= most, names


def test_the_layers_are_few() -> None:
    pyproject = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))
    (layers,) = [c["layers"] for c in pyproject["tool"]["importlinter"]["contracts"] if "layers" in c]
    assert len(layers) <= 8


def test_no_modules_import_each_other_in_a_circle() -> None:
    """For type checking neither: what needs the other's types cannot be understood without it."""
    graph = grimp.build_graph(NAME)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 50
    TopologicalSorter(imports).prepare()  # a CycleError names the circle


HEAD = "import threading\nfrom httpx import Request\nfrom typing import Any\nfrom p.x import Ours\n"


@pytest.mark.parametrize(
    "code",
    [
        "def f(record):\n    record.state = 1",
        "def f(record: Ours):\n    record.count += 1",
        "def f(record: Any):\n    del record.state",
        "def f(records):\n    for record.state in records: pass",
        "def f(record):\n    with open('x') as record.file: pass",
        "record = Ours()\nrecord.a, record.b = 1, 2",
        "def f():\n    record = Ours()\n    record.a = 1",
        "class A:\n    def __init__(self):\n        self.b = Ours()\n        self.b.c = 1",
        "class A:\n    def f(self, other: 'B'):\n        other.b = 1",
        "class A:\n    def f(self):\n        def inner(me):\n            me.b = 1",
        "def f(x):\n    setattr(x, 'y', 1)",
        "class A:\n    def f(self, b):\n        object.__setattr__(b, 'y', 1)",
        "Ours.limit = 1",
        "threading.Timer = 1",
        "def f():\n    timers = [threading.Timer()]\n    timers[0].daemon = True",
        "import copy\ndef f(record):\n    one = copy.copy(record)\n    one.state = 1",
        "from dataclasses import replace\ndef f(r):\n    one = replace(r)\n    one.state = 1",
        "def f(x: Request):\n    x = Ours()\n    x.url = 1",
        "def f(self):\n    self.x = 1",
    ],
)
def test_writing_to_another_object_is_found(code: str) -> None:
    assert len(outside_writes(HEAD + code, "p")) in (1, 2)


@pytest.mark.parametrize(
    "code",
    [
        "class A:\n def f(self):\n  self.a = self.b = 1\n  object.__setattr__(self, 'x', 1)",
        "class A:\n @classmethod\n def f(cls):\n  cls.count = 1\n  a = cls()\n  a.b = 1",
        "class A:\n def f(self, other: 'A'):\n  other.b, A.count = 1, 2\n  a = A()\n  a.b = 1",
        "def f():\n    timer = threading.Timer(1, f)\n    timer.daemon = True",
        "def f(request: Request | None):\n    request.url = 1\n    request.extensions.x = 2",
        "local = threading.local()\ndef f():\n    local.x = 1",
        "class A:\n    t: threading.Timer\n    def f(self):\n        self.t.daemon = True",
        "class A:\n    def __init__(self):\n        self.t = threading.Timer()\n"
        "    def f(self):\n        self.t.daemon = True",
        "def f(x):\n    x['a'] = 1\n    x = 2",
    ],
)
def test_writing_to_what_is_ones_own_is_let_be(code: str) -> None:
    assert outside_writes(HEAD + code, "p") == []


def test_the_drawn_architecture_is_current() -> None:
    docs = PACKAGE.parent / "docs"
    text = (docs / "architecture.md").read_text("utf-8")
    drawn = runpy.run_path(str(docs / "draw_architecture.py"))["page"](text)
    assert drawn == text, "run `python docs/draw_architecture.py`"
    assert drawn.count("-->") > 20


def test_the_manifest_s_columns_are_said_as_they_are() -> None:
    docs = PACKAGE.parent / "docs"
    text = (docs / "manifest.md").read_text("utf-8")
    written = runpy.run_path(str(docs / "draw_manifest.py"))["page"](text)
    assert written == text, "run `python docs/draw_manifest.py`"
    assert written.count("| `") > 90
