"""Draws the picture in `docs/architecture.md` from the code: layers, rooms, and who uses whose door.

    python docs/draw_architecture.py

A test holds the page against the code.
"""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
NAME = "prefect_nanobanana"
PACKAGE = ROOT / NAME
START, END = "<!-- drawn from the code -->\n", "<!-- end of what is drawn -->"

Uses = dict[str, dict[str, dict[str, set[str]]]]
"""The names that a room takes of another's module: by room, other room, module."""


def layers() -> list[list[str]]:
    """The rooms of each layer, from the top; modules that may use each other are one room."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (rows,) = [c["layers"] for c in pyproject["tool"]["importlinter"]["contracts"] if "layers" in c]
    return [[room.replace(" : ", ", ") for room in row.split(" | ")] for row in rows]


def uses(rooms: list[str]) -> Uses:
    """Who takes which names of whom."""
    room_of = {module: room for room in rooms for module in room.split(", ")}
    found: Uses = defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    for path in sorted(PACKAGE.rglob("*.py")):
        user = room_of.get(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
        for module, name in _imports(path):
            used = room_of.get(module)
            if user and used and user != used:
                found[user][used][module].add(name)
    return found


def _imports(path: Path) -> Iterator[tuple[str, str]]:
    """The package's own modules that a file imports from, and the names that it takes."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, inside = node.module.partition(".")
            for alias in node.names if package == NAME else []:
                yield inside.partition(".")[0] or alias.name, alias.name


def draw() -> str:
    """The picture and the table of doors, as Markdown."""
    rows = layers()
    *upper, values = rows
    found = uses([room for row in rows for room in row])
    lines = ["```mermaid", "flowchart TD"]
    ids = {room: room.partition(",")[0] for row in rows for room in row}
    for number, row in enumerate(rows):
        lines.append(f'  subgraph layer{number}[" "]')
        lines += [f'    {ids[room]}["{room}"]' for room in row]
        lines.append("  end")
    for room in (room for row in upper for room in row):
        lines += [f"  {ids[room]} --> {ids[used]}" for used in sorted(found[room]) if used not in values]
    lines += [f"  layer{len(upper) - 1} ~~~ layer{len(upper)}", "```", ""]
    lines += ["| door | what is behind it | who uses which of its names |", "| --- | --- | --- |"]
    for room in (room for row in upper for room in row if (PACKAGE / room / "__init__.py").exists()):
        tree = ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8"))
        says = (ast.get_docstring(tree) or "").partition("\n")[0]
        (exported,) = [ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)]
        by_users: dict[str, list[str]] = defaultdict(list)
        for name in sorted(exported):
            users = ", ".join(ids[user] for user in found if name in found[user][room][room])
            by_users[users or ("people" if room in rows[0] + rows[1] else "nobody")].append(f"`{name}`")
        names = "; ".join(f"{users}: {', '.join(who)}" for users, who in sorted(by_users.items()))
        lines.append(f"| `{room}` | {says} | {names} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with its picture drawn anew."""
    before, _, rest = text.partition(START)
    return before + START + draw() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
