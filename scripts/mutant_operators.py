"""The faults that can be made at one place of a syntax tree."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE,),
    ast.LtE: (ast.Lt,),
    ast.Gt: (ast.GtE,),
    ast.GtE: (ast.Gt,),
    ast.Eq: (ast.NotEq, ast.LtE, ast.GtE),
    ast.NotEq: (ast.Eq, ast.Lt, ast.Gt),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
_OPPOSITES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "amin": "amax",
    "amax": "amin",
    "floor": "ceil",
    "ceil": "floor",
    "minimum": "maximum",
    "maximum": "minimum",
}
# Arguments that are texts, promises to the type checker, or of no effect on one device.
_SILENT_ARGUMENTS = {
    "hint", "where", "description", "title", "examples", "frozen", "slots", "device", "encoding",
    "json_schema_extra", "non_blocking",
}  # fmt: skip
# Without these a class or function is no longer what its callers call.
_STRUCTURAL_DECORATORS = {
    "property", "classmethod", "staticmethod", "dataclass", "abstractmethod", "contextmanager",
    "override", "overload", "setter", "cached_property", "runtime_checkable",
}  # fmt: skip


def alternatives(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> Iterator[ast.AST]:
    """What could stand for ``node``."""
    if isinstance(node, ast.stmt):
        yield from _statements(node, parents)
    elif isinstance(node, ast.Compare):
        for index, op in enumerate(node.ops):
            operands = [node.left, *node.comparators][index : index + 2]
            for other in _COMPARISONS[type(op)]:
                is_of_order = type(op) in (ast.Eq, ast.NotEq) and other not in (ast.Eq, ast.NotEq)
                if not is_of_order or all(map(_is_ordered, operands)):
                    yield _changed(node, lambda n, i=index, o=other: n.ops.__setitem__(i, o()))
    elif isinstance(node, ast.BoolOp):
        opposite = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield _changed(node, lambda n: setattr(n, "op", opposite))
        for index in range(len(node.values)):
            rest = node.values[:index] + node.values[index + 1 :]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield _changed(node, lambda n: setattr(n, "op", _OPERATORS[type(n.op)]()))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in _other_values(node.value))
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.comprehension):
        yield from _shorter_loops(node)
        for index in range(len(node.ifs)):
            yield _changed(node, lambda n, i=index: n.ifs.pop(i))
    elif isinstance(node, ast.Call):
        yield from _calls(node)


def _is_ordered(operand: ast.expr) -> bool:
    """Whether ``<`` may mean something here: not for texts, None, booleans and types."""
    if isinstance(operand, ast.Constant):
        return isinstance(operand.value, int | float) and not isinstance(operand.value, bool)
    return not (isinstance(operand, ast.Attribute) and operand.attr in ("dtype", "type", "axis"))


def _other_values(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    return [value * 2 + 1.0] if isinstance(value, float) else []


def _calls(call: ast.Call) -> Iterator[ast.AST]:
    opposite = _OPPOSITES.get(called(call))
    if opposite:
        name = "attr" if isinstance(call.func, ast.Attribute) else "id"
        yield _changed(call, lambda n: setattr(n.func, name, opposite))
    for index, keyword in enumerate(call.keywords):
        if keyword.arg and not is_silent_argument(call, keyword):
            yield _changed(call, lambda n, i=index: n.keywords.pop(i))


def _statements(node: ast.stmt, parents: dict[ast.AST, ast.AST]) -> Iterator[ast.AST]:
    if _is_droppable(node, parents[node]):
        yield ast.Pass()
    elif isinstance(node, ast.AugAssign):
        yield ast.Pass()
        if type(node.op) in _OPERATORS:
            yield _changed(node, lambda n: setattr(n, "op", _OPERATORS[type(n.op)]()))
    elif isinstance(node, ast.For):
        yield from _shorter_loops(node)
    elif isinstance(node, ast.Continue):
        yield ast.Break()
    elif isinstance(node, ast.Break):
        yield ast.Continue()
    elif isinstance(node, ast.If):
        yield _changed(node, lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test)))
    elif isinstance(node, ast.With):
        for index, item in enumerate(node.items):
            if item.optional_vars is None and len(node.items) > 1:
                yield _changed(node, lambda n, i=index: n.items.pop(i))
            elif item.optional_vars is None:
                yield ast.If(ast.Constant(True), node.body, [])
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        for index, decorator in enumerate(node.decorator_list):
            function = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(function).rpartition(".")[2] not in _STRUCTURAL_DECORATORS:
                yield _changed(node, lambda n, i=index: n.decorator_list.pop(i))


def _is_droppable(node: ast.stmt, parent: ast.AST) -> bool:
    """Calls for their effect, errors, early returns, and what is put into an object."""
    if isinstance(node, ast.Return):
        return not isinstance(parent, ast.FunctionDef)
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Attribute | ast.Subscript)
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return is_call or isinstance(node, ast.Raise | ast.Delete)


def _shorter_loops(loop: ast.For | ast.comprehension) -> Iterator[ast.AST]:
    """Each thing of a written list left out once."""
    if isinstance(loop.iter, ast.Tuple | ast.List):
        kind = type(loop.iter)
        for index in range(len(loop.iter.elts)):
            rest = loop.iter.elts[:index] + loop.iter.elts[index + 1 :]
            yield _changed(loop, lambda n, r=rest: setattr(n, "iter", kind(r, ast.Load())))


def _changed(node: ast.AST, change: Callable[..., object]) -> ast.AST:
    """A shallow copy whose lists are its own, changed."""
    other = copy.copy(node)
    for name, value in ast.iter_fields(node):
        setattr(other, name, list(value) if isinstance(value, list) else value)
    if isinstance(node, ast.Call):
        other.func = copy.copy(node.func)  # type: ignore[attr-defined]
    change(other)
    return other


def called(call: ast.Call) -> str:
    """The name of what is called, without what it belongs to."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


def is_silent_argument(parent: ast.AST, keyword: ast.keyword) -> bool:
    """Whether an argument is a text, or of no effect that a test should notice."""
    is_strict_zip = isinstance(parent, ast.Call) and called(parent) == "zip"
    return keyword.arg in _SILENT_ARGUMENTS or (is_strict_zip and keyword.arg == "strict")
