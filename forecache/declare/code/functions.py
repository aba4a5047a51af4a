"""A function as text: its source, the values that it closes over, and its defaults."""

import ast
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from forecache.declare.code.location import is_project_module, stable_module
from forecache.declare.code.reach import ReachedCode
from forecache.declare.code.source import SourceModule

Many = Callable[[Iterable[Any]], str]


def describe_function(function: types.FunctionType, reach: ReachedCode, many: Many) -> str:
    """The text of a function; the project's source that it uses is added to `reach`.

    Args:
        many: Returns the text of several values.
    """
    # `__module__` may be that of a wrapped function.
    owner = str(function.__globals__.get("__name__", function.__module__))
    name = f"{stable_module(owner)}:{function.__code__.co_name}"
    held = [_cell_value(cell) for cell in function.__closure__ or ()]
    if hasattr(function, "__wrapped__"):
        held.append(function.__wrapped__)
    if not is_project_module(owner):
        return f"function {name} {function.__qualname__}{many(held)}"
    values = f"{many(held)}{many([*(function.__defaults__ or ()), function.__kwdefaults__])}"
    reach.mark_loaded(owner)
    module = reach.enter_module(owner)
    node = None if module is None else _find_node(module, function.__code__)
    if module is None or node is None:
        return f"function {name} {_describe_code(function, reach, owner, many)}{values}"
    text = reach.reach_node(module, node, bound=frozenset(function.__code__.co_freevars))
    return f"function {name} {text}{values}"


def _cell_value(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _find_node(module: SourceModule, code: types.CodeType) -> ast.AST | None:
    """The syntax node that a function was compiled from; None if none fits, or several do."""
    if code.co_name == "<lambda>":
        return _find_lambda(module, code)
    found: list[ast.AST] = [
        node
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name == code.co_name
        and min(node.lineno, *(d.lineno for d in node.decorator_list), node.lineno) == code.co_firstlineno
    ]
    return found[0] if len(found) == 1 else None


def _find_lambda(module: SourceModule, code: types.CodeType) -> ast.AST | None:
    near = [n for n in ast.walk(module.tree) if isinstance(n, ast.Lambda) and n.lineno == code.co_firstlineno]
    spans = set(_positions(code))
    fitting = [node for node in near if spans and all(_contains_span(node.body, span) for span in spans)]
    # Of nested lambdas, the innermost one that contains all of the code.
    fitting.sort(key=lambda node: (node.body.lineno, node.body.col_offset))
    chosen = fitting or near
    return chosen[-1] if fitting or len(near) == 1 else None


def _positions(code: types.CodeType) -> Iterator[tuple[int, int, int, int]]:
    for position in getattr(code, "co_positions", lambda: ())():  # from Python 3.11 on
        line, end_line, column, end_column = position
        if None not in position and (line, column) != (end_line, end_column):
            yield line, column, end_line, end_column


def _contains_span(node: ast.expr, span: tuple[int, int, int, int]) -> bool:
    end = (node.end_lineno or 0, node.end_col_offset or 0)
    return (node.lineno, node.col_offset) <= span[:2] and span[2:] <= end


def _describe_code(function: types.FunctionType, reach: ReachedCode, owner: str, many: Many) -> str:
    """The text of a function whose source was not found: its bytecode; all source of its module is added to `reach`."""
    reach.reach_module(owner)
    used = {name: function.__globals__[name] for name in _used_names(function.__code__) if name in function.__globals__}
    return f"{_describe_bytecode(function.__code__)}{many([used])}"


def _used_names(code: types.CodeType) -> set[str]:
    inner = (_used_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inner)


def _describe_bytecode(code: types.CodeType) -> str:
    constants = [
        _describe_bytecode(c) if isinstance(c, types.CodeType) else _describe_constant(c) for c in code.co_consts
    ]
    return f"{code.co_code.hex()} {constants} {code.co_names}"


def _describe_constant(value: Any) -> str:
    return f"frozenset {sorted(map(repr, value))}" if isinstance(value, frozenset) else repr(value)
