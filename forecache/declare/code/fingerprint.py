"""The fingerprint of a declaration: a hash of its values in canonical text and of the project's source that they use.

The text contains the names of Forecache's classes and functions, without their modules: if one is renamed, the
fingerprints of all projects that declare it change, and their stages run again; if it is moved, none does.
"""

import ast
import copyreg
import dataclasses
import functools
import hashlib
import os
import re
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

from forecache.base.errors import SettingsError
from forecache.declare.code.location import is_project_module, path_in_project, stable_module
from forecache.declare.code.reach import ReachedCode
from forecache.declare.code.source import SourceModule

Many = Callable[[Iterable[Any]], str]


def describe_function(function: types.FunctionType, reach: ReachedCode, many: Many) -> str:
    """The text of a function, `many` that of several values; the project's source that it uses is added to `reach`."""
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


_PLAIN = (type(None), bool, int, float, complex, str, bytes, Decimal, Fraction, UUID, PurePath)
_TIMES = (date, datetime, time, timedelta, timezone)
_FUNCTIONS = (types.BuiltinFunctionType, types.WrapperDescriptorType, types.MethodDescriptorType)


class _OpaqueValueError(Exception):
    """A value without a text that is equal in two runs."""


class ValueDescriber:
    """Makes the text of values; adds the source of the project's functions and classes among them to `reach`."""

    def __init__(self, reach: ReachedCode) -> None:
        self.reach = reach
        reach.describe = self._describe_module_value
        self._open: list[Any] = []
        self._from_source = False

    def describe_declared(self, value: Any) -> str:
        try:
            return self._describe(value)
        except _OpaqueValueError as error:
            raise SettingsError(
                f"The declaration holds {error}, of which Forecache cannot tell whether it has changed.",
                remedy="Make it inside the function that needs it.",
            ) from None

    def _describe_module_value(self, value: Any) -> str | None:
        """The text of a module's value; None if it has none, as of an object that may change while it is used."""
        before = self._from_source, self._open
        self._from_source, self._open = True, []
        try:
            return self._describe(value)
        except Exception:  # noqa: BLE001  (an object that cannot be inspected is described by its source alone)
            return None
        finally:
            self._from_source, self._open = before

    def _describe(self, value: Any) -> str:
        place = _project_path(value)
        if place is not None:
            return f"{type(value).__qualname__} in the project: {place!r}"
        if isinstance(value, (*_PLAIN, *_TIMES)) and not isinstance(value, Enum):
            return f"{type(value).__qualname__} {value!r}"
        if any(value is other for other in self._open):
            return f"again {[value is other for other in self._open].index(True)}"
        self._open.append(value)
        try:
            return self._describe_structure(value)
        finally:
            self._open.pop()

    def _describe_structure(self, value: Any) -> str:
        if isinstance(value, type):
            return self._describe_class(value)
        if isinstance(value, types.ModuleType):
            self.reach.reach_module(value.__name__)
            return f"module {value.__name__}"
        if isinstance(value, Enum):
            return f"{self._describe_class(type(value))}.{value.name}"
        if isinstance(value, functools.partial):
            return f"partial{self._describe_all((value.func, value.args, value.keywords))}"
        if isinstance(value, types.MethodType):
            return f"method{self._describe_all((value.__func__, value.__self__))}"
        if isinstance(value, types.FunctionType):
            return describe_function(value, self.reach, self._describe_all)
        if isinstance(value, _FUNCTIONS):
            owner = getattr(value, "__module__", None) or getattr(value, "__objclass__", type(value)).__name__
            return f"builtin {stable_module(str(owner))}.{value.__qualname__}"
        if isinstance(value, re.Pattern):
            return f"pattern {value.pattern!r} {value.flags}"
        if isinstance(value, (tuple, list, deque)):
            return f"{self._describe_class(type(value))}{self._describe_all(value)}"
        if isinstance(value, Set):
            return f"{self._describe_class(type(value))}{sorted(map(self._describe, value))}"
        if isinstance(value, Mapping):
            return f"mapping{self._describe_all(part for pair in value.items() for part in pair)}"
        if dataclasses.is_dataclass(value):
            fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
            return f"{self._describe_class(type(value))}{self._describe_all(part for pair in fields for part in pair)}"
        if hasattr(value, "__wrapped__"):
            return f"{self._describe_class(type(value))}{self._describe_all((value.__wrapped__,))}"
        return self._describe_object(value)

    def _describe_all(self, values: Iterable[Any]) -> str:
        return f"({', '.join(map(self._describe, values))})"

    def _describe_class(self, kind: type) -> str:
        name = f"{stable_module(kind.__module__)}.{kind.__qualname__}"
        if not is_project_module(kind.__module__):
            return name
        self.reach.mark_loaded(kind.__module__)
        self.reach.reach_name(kind.__module__, kind.__qualname__.partition(".")[0])
        return f"class {name}{self._describe_all((*kind.__bases__, *self._functions_of_class(kind)))}"

    def _functions_of_class(self, kind: type) -> Iterator[types.FunctionType]:
        """The functions of a class: the values that they close over are not in its source."""
        for member in vars(kind).values():
            parts = [getattr(member, name, None) for name in ("fget", "fset", "fdel", "func", "__func__")]
            yield from (part for part in (member, *parts) if isinstance(part, types.FunctionType))

    def _describe_object(self, value: Any) -> str:
        kind = type(value)
        if hasattr(value, "detach") and hasattr(value, "numpy"):  # a torch tensor
            value = value.detach().cpu().numpy()
        if hasattr(value, "tobytes") and hasattr(value, "dtype"):  # a numpy array or number
            if value.dtype.hasobject:
                return f"array{self._describe_all((value.shape, value.tolist()))}"
            content = hashlib.sha256(value.tobytes()).hexdigest()
            return f"array {value.dtype.str} {getattr(value, 'shape', ())} {content}"
        if self._from_source and not is_project_module(kind.__module__):
            raise _OpaqueValueError(f"a {kind.__qualname__}")
        try:
            reducer = copyreg.dispatch_table.get(kind)
            reduced = reducer(value) if reducer is not None else value.__reduce_ex__(4)
        except Exception as error:
            raise _OpaqueValueError(f"a {kind.__module__}.{kind.__qualname__}") from error
        if isinstance(reduced, str):
            return f"{stable_module(kind.__module__)}.{kind.__qualname__} {reduced}"
        items = [list(part) if part is not None else None for part in (*reduced, None, None, None)[3:5]]
        return f"object{self._describe_all((*reduced[:2], (*reduced, None)[2], *items))}"


def _project_path(value: Any) -> str | None:
    is_path = isinstance(value, (str, PurePath)) and not isinstance(value, Enum) and os.path.isabs(value)
    return path_in_project(PurePath(value)) if is_path else None


def fingerprint(**declared: Any) -> str:
    """Hash of named values: equal if the values and the code that their functions run are equal."""
    reach = ReachedCode()
    described = ValueDescriber(reach).describe_declared({name: declared[name] for name in sorted(declared)})
    reach.follow_all()
    digest = hashlib.sha256(described.encode())
    for piece in sorted(reach.pieces.items()):
        digest.update("\0".join(("", *piece)).encode())
    made = digest.hexdigest()[:16]
    _declared[made] = declared
    return made


_declared: dict[str, Mapping[str, Any]] = {}
"""The values that this process has made a fingerprint of."""


def find_declared(made: str) -> Mapping[str, Any] | None:
    """The values of a fingerprint that this process has made; None for any other text."""
    return _declared.get(made)
