"""Check declared values against the types of their fields when a declaration loads.

Every check of a declaration refuses a value by SettingsError, with the thing, the value and a remedy.
"""

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from functools import cache
from numbers import Integral
from types import FunctionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, ConfigDict, GetPydanticSchema, TypeAdapter, ValidationError
from pydantic_core import core_schema

from forecache.base.errors import SettingsError
from forecache.base.table_names import closest_hint, list_names


def check_fields(owner: str, declared: Any) -> None:
    """Refuse a dataclass, called `owner` in the message, with a value of another type than its field's."""
    for field in dataclasses.fields(declared):
        value = getattr(declared, field.name)
        # A quoted annotation names classes of heavy libraries: all of them are functions.
        kind: Any = field.type if not isinstance(field.type, str) else _FUNCTIONS[field.type.endswith("| None")]
        try:
            _type_adapter(kind).validate_python(value)
        except ValidationError:
            raise SettingsError(
                f"{owner} has {field.name}={_shorten(value)}.", remedy=f"It is {_describe_type(kind)}."
            ) from None


def check_value(owner: str, name: str, value: object, fits: bool, rule: str) -> None:
    """Refuse a value unless it `fits`; `rule` becomes the remedy, such as "It is at least 1."."""
    if not fits:
        raise SettingsError(f"{owner} has {name}={_shorten(value)}.", remedy=rule)


def check_known(
    use: str,
    names: Iterable[str],
    known: Collection[str],
    which: str = ", which it does not declare",
    listed: str = "Its columns are",
) -> None:
    """Refuse a name that is not among the known ones: "`use` 'name'`which`.", with "`listed` a, b." as the remedy."""
    for name in names:
        if name not in known:
            raise SettingsError(
                f"{use} {name!r}{which}.", remedy=f"{closest_hint(name, known)}{listed} {list_names(known)}."
            )


def check_least(owner: str, declared: Any, least: float, *names: str, above: bool = False) -> None:
    """Refuse fields below `least`, or with `above` also those equal to it; None is accepted."""
    for name in names:
        value = getattr(declared, name)
        fits = value is None or (value > least if above else value >= least)
        check_value(
            owner, name, value, fits, f"Give {'more than ' if above else ''}{least:g}{'' if above else ' or more'}."
        )


@cache
def _type_adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(
        _validated_type(kind), config=ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    )


def _validated_type(kind: Any) -> Any:
    """The type for pydantic, which looks at no field of a declaration, and takes numpy's whole numbers as such."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_validated_type, arguments))]  # noqa: UP007  (of a tuple)
    if origin in (tuple, Mapping):
        return origin[tuple(map(_validated_type, arguments))]
    if kind is int:
        return Annotated[int, BeforeValidator(_to_int)]
    if dataclasses.is_dataclass(kind):
        return Annotated[Any, GetPydanticSchema(lambda source, handler: core_schema.is_instance_schema(kind))]
    return kind


def _to_int(value: Any) -> Any:
    return int(value) if not isinstance(value, bool) and isinstance(value, Integral) else value


def _describe_type(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_describe_type(choice) for choice in arguments)
    if origin is tuple:
        return f"a tuple, each item {_describe_type(arguments[0])}"
    if origin is Mapping:
        return f"a mapping from {_describe_type(arguments[0])} to {_describe_type(arguments[1])}"
    if origin is Callable:
        return "a function"
    return _NAMES.get(kind) or f"a {kind.__name__}"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_FUNCTIONS: tuple[Any, Any] = (Callable[..., Any], Callable[..., Any] | None)
_NAMES: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    date: "a date",
    type(None): "None",
    Any: "anything",
}


def check_importable(owner: str, name: str, function: Any, *, by: str) -> None:
    """Refuse a function that cannot be imported by name; `by` is the reason, such as "Workers import it"."""
    module, qualified = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in qualified.split("."):
        found = getattr(found, part, None)
    # While its module is being imported, a function that is defined after the declaration is not found yet.
    is_named = isinstance(function, FunctionType) and module != "__main__" and qualified.isidentifier()
    importable = is_named and (found is None or found is function)
    rule = f"{by}: define it by `def` in a module of the project, not inside another function."
    check_value(owner, name, function, importable, rule)


def check_arguments(owner: str, name: str, function: Any, *arguments: str) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions that are written in C have no signature
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        called = getattr(function, "__name__", type(function).__name__)
        raise SettingsError(
            f"{owner} has {name}={called}, which takes {signature}: {error}.",
            remedy=f"It is called as {called}({', '.join(arguments)}).",
        ) from None


def import_path_of(function: Any) -> str:
    return f"{function.__module__}:{function.__qualname__}"
