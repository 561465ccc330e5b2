"""Finds attributes that are written from outside the class of their object.

An object's attributes are written by its own class: through `self` or `cls`, in an instance that the
class makes of itself, or in another object that is annotated with the class. Everything else takes a
method, or a new value.

Objects of other packages are let be, as their interface is not ours to shape (`timer.daemon = True`):
those that were made by calling what another package is imported for, and those annotated with its class,
be it a variable, a parameter, or an attribute of `self`. Modules and classes of other packages are not:
to write there is to patch them. What cannot be told counts as ours: annotate it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_SETTERS = {"setattr", "delattr", "object.__setattr__", "object.__delattr__"}
_CARRIERS = {"collections", "contextlib", "copy", "dataclasses", "functools", "itertools", "typing"}
"""What these return may be an object of ours."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def outside_writes(source: str, package: str) -> list[str]:
    """Find them in a module.

    Args:
        source: The module's text.
        package: Whose objects are checked.

    Returns:
        Line and target of each, as `12: record.state`.
    """
    tree = ast.parse(source)
    scope = _Scope(imported=frozenset(_imported(tree, package)))
    scope.learn(tree.body)
    return [f"{line}: {target}" for line, target in sorted(set(_walk(tree.body, scope)))]


@dataclass(frozen=True)
class _Scope:
    """What is known of names at one place.

    Attributes:
        imported: Names of other packages' modules, classes and functions.
        class_name: The class around.
        own: Names that hold the class around, or an instance of it.
        foreign: Names that hold objects of other packages; `self.x` for attributes.
    """

    imported: frozenset[str]
    class_name: str | None = None
    own: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)

    def may_write(self, base: ast.expr) -> bool:
        """Whether attributes of this object may be written here."""
        if isinstance(base, ast.Name) and base.id in self.own:
            return True
        while ast.unparse(base) not in self.foreign:
            if not isinstance(base, ast.Attribute):
                return False
            base = base.value
        return True

    def learn(self, body: Sequence[ast.stmt], arguments: ast.arguments | None = None) -> None:
        """Take note of what names hold, by the parameters, annotations and assignments of a body."""
        if arguments is not None:
            for each in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
                self.note(each.arg, each.annotation)
        for node in _nodes(body):
            match node:
                case ast.AnnAssign(target=target, annotation=annotation):
                    self.note(ast.unparse(target), annotation)
                case ast.Assign(targets=[target], value=ast.Call(func=made)):
                    self.note(ast.unparse(target), made)
                case ast.withitem(context_expr=ast.Call(func=made), optional_vars=ast.Name(id=name)):
                    self.note(name, made)

    def inside(self, class_name: str | None = None) -> _Scope:
        """What is known within a function, or a class, that stands here."""
        own = {"self", "cls", class_name} if class_name else set(self.own)
        return _Scope(self.imported, class_name or self.class_name, own, set(self.foreign))

    def note(self, name: str, kind: ast.expr | None) -> None:
        """Take note of what a name holds: the annotation, or what was called to make it."""
        match kind:
            case ast.Constant(value=str(text)):
                kind = ast.parse(text, mode="eval").body
            case ast.BinOp(left=left, op=ast.BitOr()):  # Timer | None
                kind = left
        root = ast.unparse(kind).partition(".")[0] if kind else ""
        if root in self.imported:
            self.foreign.add(name)
        elif root and root in {self.class_name, "cls", "Self"}:
            self.own.add(name)
        elif name not in ("self", "cls"):
            self.foreign.discard(name)


def _walk(body: Sequence[ast.stmt], scope: _Scope) -> Iterator[tuple[int, str]]:
    for node in _nodes(body):
        match node:
            case ast.ClassDef():
                inner = scope.inside(node.name)
                for each in ast.walk(node):
                    if isinstance(each, _Function):
                        known = inner.inside()
                        known.learn(each.body, each.args)
                        inner.foreign.update(n for n in known.foreign if n.startswith("self."))
                    elif isinstance(each, ast.AnnAssign) and each in node.body:
                        inner.note(f"self.{ast.unparse(each.target)}", each.annotation)
                yield from _walk(node.body, inner)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                inner = scope.inside()
                inner.learn(node.body, node.args)
                yield from _walk(node.body, inner)
            case ast.Attribute(value=base, ctx=ast.Store() | ast.Del()) if not scope.may_write(base):
                yield node.lineno, ast.unparse(node)
            case ast.Call(func=called, args=[base, *_]) if ast.unparse(called) in _SETTERS:
                if not scope.may_write(base):
                    yield node.lineno, ast.unparse(node)


def _nodes(body: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    """All nodes of a body in their order; functions and classes, too, but not what is inside of them."""
    waiting: list[ast.AST] = list(reversed(body))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.ClassDef | _Function):
            waiting.extend(reversed(list(ast.iter_child_nodes(node))))


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Names that come from other packages and say what kind of thing they make."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            found = {alias.asname or alias.name: source for alias in node.names}
        else:
            continue
        for name, source in found.items():
            if source.partition(".")[0] not in {package, "", *_CARRIERS}:
                yield name
