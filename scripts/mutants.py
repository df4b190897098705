"""Mutants of one module: small faults made in its syntax tree, one at a time.

Not mutated, because no test should notice: docstrings, annotations, texts (errors, hints,
descriptions, f-strings), assertions, `__all__`, what is frozen, strictness of `zip`, devices.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from mutant_operators import alternatives, called, is_silent_argument

_SILENT_CALLS = {"debug", "info", "warning", "warn", "NewType", "TypeVar", "cast", "isinstance"}
_MOST_TEXT = 110


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        path: of the module, as given.
        line, last_line: of the changed node, from 1; of a compound statement its head.
        before, after: source text of the statement or, where that is long, of the changed node.
        code: the whole mutated module, to be compiled.
    """

    path: str
    line: int
    last_line: int
    before: str
    after: str
    code: ast.Module = field(repr=False, compare=False)

    @property
    def key(self) -> str:
        """What a mutant is recognised by when lines have moved."""
        return f"{self.path}\n- {self.before}\n+ {self.after}"


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse(source, path)
    parents: dict[ast.AST, ast.AST] = {}
    for node in ast.walk(tree):
        parents.update((child, node) for child in ast.iter_child_nodes(node))
    found: dict[tuple[int, str], Mutant] = {}
    for node in _mutable(tree):
        for replacement in alternatives(node, parents):
            mutant = _mutant(path, tree, node, replacement, parents)
            found.setdefault((mutant.line, mutant.key), mutant)
    return sorted(found.values(), key=lambda mutant: mutant.line)


def _mutable(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes in which a fault would be one of behaviour."""
    yield node
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for child in children:
            if name == "annotation" and isinstance(child, ast.AST):
                # Of an annotation only what `Field(ge=0)` and the like make legal.
                calls = (inner for inner in ast.walk(child) if isinstance(inner, ast.Call))
                yield from itertools.chain.from_iterable(map(_mutable, calls))
            elif isinstance(child, ast.AST) and not _is_silent(node, name, child):
                yield from _mutable(child)


def _is_silent(parent: ast.AST, name: str, child: ast.AST) -> bool:
    if name in ("returns", "decorator_list", "exc", "cause", "bases"):
        return True
    if isinstance(child, ast.keyword):
        return is_silent_argument(parent, child)
    if isinstance(child, ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__":
        return True
    if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
        return True
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
        return called(child.value) in _SILENT_CALLS
    if isinstance(child, ast.Call):
        return called(child) in _SILENT_CALLS
    # `Alias = int | None`, `Alias = Annotated[…]`: only the call inside says what is legal.
    return isinstance(child, ast.BinOp) and isinstance(child.op, ast.BitOr) and _is_type(child)


def _is_type(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_type(node.left) or _is_type(node.right)
    if isinstance(node, ast.Name):
        return node.id in ("int", "str", "float", "bool", "list", "tuple", "dict", "Path", "Tensor")
    return isinstance(node, ast.Constant) and node.value is None


def _mutant(
    path: str, tree: ast.Module, node: ast.AST, new: ast.AST, parents: dict[ast.AST, ast.AST]
) -> Mutant:
    """The module with ``new`` in the place of ``node``: copies along the path to the root only."""
    shown = (_header(node), _header(new))
    line, last_line = _lines(node)
    old, current = node, ast.copy_location(new, node) if hasattr(node, "lineno") else new
    is_inside = True
    while old in parents:
        parent = parents[old]
        if not line:
            line, last_line = _lines(parent)
        clone = copy.copy(parent)
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(clone, name, current)
            elif isinstance(value, list):
                setattr(clone, name, [current if item is old else item for item in value])
        old, current = parent, clone
        if is_inside and isinstance(parent, ast.expr | ast.stmt | ast.arguments | ast.keyword):
            texts = (_header(old), _header(current))
            if texts[0] != texts[1] and max(map(len, texts)) <= _MOST_TEXT:
                shown = texts
            is_inside = not isinstance(parent, ast.stmt)
    assert isinstance(current, ast.Module)
    return Mutant(path, line, last_line, *shown, ast.fix_missing_locations(current))


def _lines(node: ast.AST) -> tuple[int, int]:
    """First and last line, (0, 0) if it has none of its own; of a compound statement its head's."""
    first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(node, ast.stmt):
        last = max(first, body[0].lineno - 1)
    return first, last


def _header(node: ast.AST) -> str:
    """Source text on one line; of a compound statement without its body."""
    node = ast.fix_missing_locations(copy.copy(node))
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        node.body = [ast.Expr(ast.Constant(...))]
    elif isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try):
        node.body = [ast.Pass()]
        for name in ("orelse", "handlers", "finalbody"):
            if hasattr(node, name):
                setattr(node, name, [])
        if isinstance(node, ast.Try):
            return "try:"
    return " ".join(ast.unparse(node).split()).removesuffix(" pass").removesuffix(" ...")
